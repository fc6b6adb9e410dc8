/* SPDX-License-Identifier: BSD-2-Clause */
#include "attach.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/*
 * Linux tells nobody how often a block device is open. Exclusive holders (mounts, swap, device
 * mapper, RAID) show when we ask for the device exclusively; programs show in /proc, loop devices
 * in /sys.
 */

static bool
held_exclusively(const char *node)
{
	int fd = open(node, O_RDONLY | O_EXCL | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return errno == EBUSY;
	close(fd);
	return false;
}

static void
name_process(const char *pid, char *by, size_t size)
{
	char path[288], name[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%s/comm", pid);
	f = fopen(path, "re");
	if (f != NULL) {
		if (fgets(name, sizeof(name), f) != NULL)
			name[strcspn(name, "\n")] = '\0';
		fclose(f);
	}
	snprintf(by, size, "%s (pid %s)", name, pid);
}

static bool
process_has(const char *pid, dev_t device)
{
	char path[288];
	struct dirent *entry;
	struct stat st;
	bool found = false;
	DIR *fds;

	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	fds = opendir(path);
	if (fds == NULL)
		return false; /* ended meanwhile */
	while (!found && (entry = readdir(fds)) != NULL) {
		found = fstatat(dirfd(fds), entry->d_name, &st, 0) == 0 && S_ISBLK(st.st_mode) &&
			st.st_rdev == device;
	}
	closedir(fds);
	return found;
}

static bool
opened_by_program(dev_t device, char *by, size_t size)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	bool found = false;

	if (proc == NULL)
		return false;
	while (!found && (entry = readdir(proc)) != NULL) {
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' &&
		    process_has(entry->d_name, device)) {
			name_process(entry->d_name, by, size);
			found = true;
		}
	}
	closedir(proc);
	return found;
}

/* The mount point of a device, for the message. */
static bool
mounted_on(dev_t device, char *by, size_t size)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char line[1024], where[512];
	bool found = false;

	if (f == NULL)
		return false;
	while (!found && fgets(line, sizeof(line), f) != NULL) {
		unsigned dev_major, dev_minor;

		if (sscanf(line, "%*d %*d %u:%u %*s %511s", &dev_major, &dev_minor, where) == 3 &&
		    makedev(dev_major, dev_minor) == device) {
			snprintf(by, size, "the mount on %s", where);
			found = true;
		}
	}
	fclose(f);
	return found;
}

/* The kernel holds what is below a loop device, and no process shows it. */
static bool
under_loop_device(dev_t device, char *by, size_t size)
{
	DIR *dir = opendir("/sys/block");
	char path[300], below[512];
	struct dirent *entry;
	bool found = false;
	struct stat st;
	FILE *f;

	if (dir == NULL)
		return false;
	while (!found && (entry = readdir(dir)) != NULL) {
		if (strncmp(entry->d_name, "loop", 4) != 0)
			continue;
		snprintf(path, sizeof(path), "/sys/block/%s/loop/backing_file", entry->d_name);
		f = fopen(path, "re");
		if (f == NULL)
			continue; /* nothing is */
		if (fgets(below, sizeof(below), f) != NULL) {
			below[strcspn(below, "\n")] = '\0';
			found =
			    stat(below, &st) == 0 && S_ISBLK(st.st_mode) && st.st_rdev == device;
		}
		fclose(f);
		if (found)
			snprintf(by, size, "/dev/%s", entry->d_name);
	}
	closedir(dir);
	return found;
}

static bool
device_in_use(dev_t device, char *by, size_t size)
{
	return mounted_on(device, by, size) || under_loop_device(device, by, size) ||
	       opened_by_program(device, by, size);
}

/* The nodes of a disk's partitions: a mounted partition holds the disk. */
static bool
partition_in_use(dev_t disk, char *by, size_t size)
{
	char path[128];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(disk), minor(disk));
	dir = opendir(path);
	if (dir == NULL)
		return false;
	while (!found && (entry = readdir(dir)) != NULL) {
		unsigned dev_major, dev_minor;
		char file[512];
		FILE *f;

		snprintf(file, sizeof(file), "%s/%s/partition", path, entry->d_name);
		if (access(file, F_OK) != 0)
			continue;
		snprintf(file, sizeof(file), "%s/%s/dev", path, entry->d_name);
		f = fopen(file, "re");
		if (f == NULL)
			continue;
		if (fscanf(f, "%u:%u", &dev_major, &dev_minor) == 2)
			found = device_in_use(makedev(dev_major, dev_minor), by, size);
		fclose(f);
	}
	closedir(dir);
	return found;
}

bool
attach_in_use(const char *node, char *by, size_t size)
{
	struct stat st;

	if (node == NULL || stat(node, &st) != 0 || !S_ISBLK(st.st_mode))
		return false;
	if (device_in_use(st.st_rdev, by, size) || partition_in_use(st.st_rdev, by, size))
		return true;
	if (held_exclusively(node)) {
		snprintf(by, size, "swap, device mapper, RAID or a mount elsewhere");
		return true;
	}
	return false;
}
