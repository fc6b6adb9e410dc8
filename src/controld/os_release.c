/* SPDX-License-Identifier: BSD-2-Clause */
#include "os_release.h"

#include <stdio.h>
#include <string.h>

/* A value as a shell reads it: in quotes of either kind, or up to a blank. */
static void
unquote(const char *text, char *value, size_t size)
{
	char quote = *text == '"' || *text == '\'' ? *text++ : '\0';
	size_t n = 0;

	for (; *text != '\0' && *text != '\n' && n + 1 < size; text++) {
		if (quote != '\0' ? *text == quote : strchr(" \t", *text) != NULL)
			break;
		if (*text == '\\' && quote != '\'' && text[1] != '\0' && text[1] != '\n')
			text++;
		value[n++] = *text;
	}
	value[n] = '\0';
}

static void
take_line(struct os_release *release, const char *line)
{
	const struct {
		const char *key;
		char *value;
		size_t size;
	} known[] = {
	    {"PRETTY_NAME=", release->pretty_name, sizeof(release->pretty_name)},
	    {"ID=", release->id, sizeof(release->id)},
	    {"VERSION_ID=", release->version_id, sizeof(release->version_id)},
	};

	for (unsigned i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		if (strncmp(line, known[i].key, strlen(known[i].key)) == 0)
			unquote(line + strlen(known[i].key), known[i].value, known[i].size);
	}
}

void
os_release_read(const char *const files[], struct os_release *release)
{
	char line[512];
	FILE *f = NULL;

	*release = (struct os_release){0};
	while (f == NULL && *files != NULL)
		f = fopen(*files++, "re");
	if (f == NULL)
		return;
	while (fgets(line, sizeof(line), f) != NULL)
		take_line(release, line);
	fclose(f);
}
