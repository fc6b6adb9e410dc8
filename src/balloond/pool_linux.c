/* SPDX-License-Identifier: BSD-2-Clause */
#include "pool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <xenpv/log.h>

#include "textfile.h"

#define PAGE_BYTES    ((size_t)POOL_PAGE_KIB * 1024)
#define FRAME_BYTES   4096
#define PAGEMAP_FRAME ((UINT64_C(1) << 55) - 1)
#define PAGEMAP_THERE (UINT64_C(1) << 63)
#define NEW	      "new" /* a page that has no name yet: its memory is there */
#define HUGEPAGES     "/sys/kernel/mm/hugepages/hugepages-2048kB"

struct pool {
	int folder;
	uint64_t *frames;
	size_t count, room;
	int64_t overcommit; /* what the kernel allowed before */
	bool said;	    /* that there are others' */
};

/* --- the filesystem --- */

static bool
is_hugetlbfs(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC &&
	       (size_t)fs.f_bsize == PAGE_BYTES;
}

static int
open_folder(const char *path)
{
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

/* A descriptor of the mounted folder, or -1 with errno. */
static int
open_mounted(const char *path)
{
	int fd;

	if (mkdir(path, 0700) != 0 && errno != EEXIST)
		return -1;
	fd = open_folder(path);
	if (fd < 0 || is_hugetlbfs(fd))
		return fd;
	close(fd);
	if (mount("xenpv-balloon", path, "hugetlbfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
		"pagesize=2M,mode=0700") != 0)
		return -1;
	return open_folder(path);
}

/* The kernel makes huge pages as they are asked for, and dissolves them when they are returned, as
 * far as this number allows. */
static int
allow_pages(int64_t pages)
{
	int fd = textfile_open(HUGEPAGES, "nr_overcommit_hugepages", O_WRONLY), result;

	if (fd < 0)
		return -1;
	result = textfile_write_number(fd, pages);
	close(fd);
	return result;
}

bool
pool_others_are_free(const char *hugepages)
{
	int64_t unused, promised;

	return textfile_number(hugepages, "free_hugepages", &unused) == 0 &&
	       textfile_number(hugepages, "resv_hugepages", &promised) == 0 && unused > promised;
}

/* The kernel would give us what it has set aside for another program (nr_hugepages) before it makes
 * a page. */
static bool
must_wait(struct pool *p)
{
	bool wait = pool_others_are_free(HUGEPAGES);

	if (wait && !p->said)
		xpv_warning(
		    "there are free huge pages of 2 MiB (nr_hugepages), which are not ours: "
		    "no memory is given until they are used or fewer");
	p->said = wait;
	return wait;
}

/* --- pages --- */

static void
page_name(uint64_t frame, char name[24])
{
	snprintf(name, 24, "%016" PRIx64, frame);
}

static int
remember(struct pool *p, uint64_t frame)
{
	if (p->count == p->room) {
		size_t room = p->room == 0 ? 64 : 2 * p->room;
		uint64_t *frames = reallocarray(p->frames, room, sizeof(*frames));

		if (frames == NULL)
			return -1;
		p->frames = frames;
		p->room = room;
	}
	p->frames[p->count++] = frame;
	return 0;
}

/* The number of the first frame behind a mapping. 0 with errno. */
static uint64_t
frame_of(const void *page)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;
	ssize_t n;

	if (fd < 0)
		return 0;
	n = pread(
	    fd, &entry, sizeof(entry), (off_t)((uintptr_t)page / FRAME_BYTES * sizeof(entry)));
	close(fd);
	if (n != sizeof(entry) || (entry & PAGEMAP_THERE) == 0 || (entry & PAGEMAP_FRAME) == 0) {
		errno = EPERM; /* without CAP_SYS_ADMIN the kernel tells 0 */
		return 0;
	}
	return entry & PAGEMAP_FRAME;
}

/* Of the page that a file has. Mapped for a moment, and not touched. */
static uint64_t
frame_of_file(int fd)
{
	void *page = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
	uint64_t frame;
	int error;

	if (page == MAP_FAILED)
		return 0;
	frame = frame_of(page);
	error = errno;
	munmap(page, PAGE_BYTES);
	errno = error;
	return frame;
}

/* The new file's page gets its name. */
static int
name_page(struct pool *p, int fd)
{
	uint64_t frame = frame_of_file(fd);
	char name[24];

	if (frame == 0)
		return -1;
	page_name(frame, name);
	if (renameat(p->folder, NEW, p->folder, name) != 0)
		return -1;
	if (remember(p, frame) == 0)
		return 0;
	unlinkat(p->folder, name, 0);
	errno = ENOMEM;
	return -1;
}

int
pool_take(struct pool *p)
{
	int fd, error;

	if (must_wait(p)) {
		errno = EBUSY;
		return -1;
	}
	if (allow_pages(p->overcommit + (int64_t)p->count + 1) != 0)
		return -1;
	/* The next process may be one without CAP_DAC_OVERRIDE, and is to open it. */
	fd = openat(p->folder, NEW, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	if (fallocate(fd, 0, 0, (off_t)PAGE_BYTES) == 0 && name_page(p, fd) == 0) {
		close(fd);
		return 0;
	}
	error = errno;
	close(fd);
	unlinkat(p->folder, NEW, 0);
	errno = error;
	return -1;
}

int
pool_return(struct pool *p, size_t i)
{
	char name[24];

	page_name(p->frames[i], name);
	if (unlinkat(p->folder, name, 0) != 0)
		return -1;
	p->frames[i] = p->frames[--p->count];
	allow_pages(p->overcommit + (int64_t)p->count);
	return 0;
}

size_t
pool_count(const struct pool *p)
{
	return p->count;
}

uint64_t
pool_page(const struct pool *p, size_t i)
{
	return p->frames[i];
}

/* --- those of an earlier process --- */

/* The page must be where its name says: then it has not been moved, and the name is ours. */
static int
find_page(struct pool *p, const char *name)
{
	int fd = openat(p->folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	uint64_t frame = fd >= 0 ? frame_of_file(fd) : 0;
	char expected[24];

	if (fd >= 0)
		close(fd);
	if (frame == 0)
		return -1;
	page_name(frame, expected);
	if (strcmp(name, expected) != 0) {
		errno = ESTALE;
		return -1;
	}
	return remember(p, frame);
}

static int
find_pages(struct pool *p)
{
	DIR *list = fdopendir(openat(p->folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	struct dirent *entry;
	int result = 0, error = 0;

	if (list == NULL)
		return -1;
	unlinkat(p->folder, NEW, 0);
	while (result == 0 && (errno = 0, entry = readdir(list)) != NULL) {
		if (entry->d_name[0] == '.')
			continue;
		result = find_page(p, entry->d_name);
		error = errno;
		if (result != 0)
			xpv_err("a page that an earlier xen-balloond has left, %s: %s: nothing is "
				"touched",
			    entry->d_name, strerror(error));
	}
	closedir(list);
	/* Only a restart of the guest brings a page back that has been moved. */
	errno = error == ESTALE ? ENODEV : error;
	return result;
}

struct pool *
pool_open(const char *folder)
{
	struct pool *p = calloc(1, sizeof(*p));
	int error;

	if (p == NULL)
		return NULL;
	p->folder = open_mounted(folder);
	if (p->folder < 0 ||
	    textfile_number(HUGEPAGES, "nr_overcommit_hugepages", &p->overcommit)) {
		error = errno == ENOENT ? ENODEV : errno;
		xpv_err("%s: no hugetlbfs with pages of 2 MiB: %s", folder, strerror(errno));
		pool_close(p);
		errno = error;
		return NULL;
	}
	if (find_pages(p) != 0) {
		error = errno;
		pool_close(p);
		errno = error;
		return NULL;
	}
	/* An earlier process has counted its pages in. */
	p->overcommit -= (int64_t)p->count;
	if (p->overcommit < 0)
		p->overcommit = 0;
	return p;
}

void
pool_close(struct pool *p)
{
	if (p == NULL)
		return;
	if (p->folder >= 0)
		close(p->folder);
	free(p->frames);
	free(p);
}
