/* SPDX-License-Identifier: BSD-2-Clause */
#include "meminfo.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xenpv/log.h>
#include <xenpv/stats.h>

#include "textfile.h"

#define TEXT_MAX	(64 * 1024)
#define PAGE_KIB	4
#define LOG_INTERVAL_NS (60 * UINT64_C(1000000000))

struct meminfo_source {
	int meminfo, vmstat;
	uint64_t said_ns;
	char text[TEXT_MAX];
};

int
meminfo_parse(const char *text, struct meminfo *m)
{
	int64_t buffers = 0, swap_total = 0, swap_free = 0;

	m->cached = 0;
	if (!textfile_find(text, "MemTotal:", &m->total) ||
	    !textfile_find(text, "MemFree:", &m->free) ||
	    !textfile_find(text, "MemAvailable:", &m->available))
		return -1;
	textfile_find(text, "Buffers:", &buffers);
	textfile_find(text, "Cached:", &m->cached);
	textfile_find(text, "SwapTotal:", &swap_total);
	textfile_find(text, "SwapFree:", &swap_free);
	m->cached += buffers;
	m->swap_used = swap_total > swap_free ? swap_total - swap_free : 0;
	return m->available <= m->total && m->free <= m->total ? 0 : -1;
}

int64_t
meminfo_parse_refaults(const char *text)
{
	int64_t file = 0, swapped = 0;

	/* Linux before 5.9 has one counter, of files only. Where there are two a page that comes
	 * back from swap is in that of the anonymous ones already. */
	if (!textfile_find(text, "workingset_refault_file", &file))
		textfile_find(text, "workingset_refault", &file);
	if (!textfile_find(text, "workingset_refault_anon", &swapped))
		textfile_find(text, "pswpin", &swapped);
	return file + swapped;
}

int64_t
meminfo_parse_present(const char *text)
{
	int64_t pages = 0, n;

	for (; text != NULL && *text != '\0'; text = strchr(text, '\n')) {
		text += strspn(text, "\n \t");
		if (strncmp(text, "present ", strlen("present ")) == 0 &&
		    textfile_find(text, "present", &n))
			pages += n;
	}
	return pages * PAGE_KIB;
}

int64_t
meminfo_boot_kib(const char *procfs)
{
	int fd = textfile_open(procfs, "zoneinfo", O_RDONLY);
	FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
	int64_t kib = 0;
	char *line = NULL;
	size_t size = 0;

	/* It has a paragraph for each processor in each zone, and so no size to count on. */
	while (f != NULL && getline(&line, &size, f) > 0)
		kib += meminfo_parse_present(line);
	free(line);
	if (f != NULL)
		fclose(f);
	else if (fd >= 0)
		close(fd);
	return kib;
}

struct meminfo_source *
meminfo_open(const char *procfs)
{
	struct meminfo_source *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->meminfo = textfile_open(procfs, "meminfo", O_RDONLY);
	s->vmstat = textfile_open(procfs, "vmstat", O_RDONLY);
	if (s->meminfo >= 0)
		return s;
	xpv_err("%s/meminfo: %s", procfs, strerror(errno));
	meminfo_close(s);
	return NULL;
}

void
meminfo_close(struct meminfo_source *s)
{
	if (s == NULL)
		return;
	if (s->meminfo >= 0)
		close(s->meminfo);
	if (s->vmstat >= 0)
		close(s->vmstat);
	free(s);
}

int
meminfo_read(struct meminfo_source *s, struct meminfo *m)
{
	if (textfile_read(s->meminfo, s->text, sizeof(s->text)) < 0 ||
	    meminfo_parse(s->text, m) != 0) {
		uint64_t now = xpv_now_ns();

		if (s->said_ns == 0 || now - s->said_ns > LOG_INTERVAL_NS)
			xpv_err("meminfo of the kernel makes no sense: nothing is changed");
		s->said_ns = now;
		return -1;
	}
	m->refaults = 0;
	if (s->vmstat >= 0 && textfile_read(s->vmstat, s->text, sizeof(s->text)) > 0)
		m->refaults = meminfo_parse_refaults(s->text);
	return 0;
}
