/* A disk that forgets: preloaded into the platform, it shows what a power cut would leave.
 *
 * Files under POWERCUT_DIR have a durable image under POWERCUT_IMAGE. An fsync or fdatasync of a file brings its
 * image up to date, block by block; what was never synced is not in it. Unlinking and renaming take effect in
 * both at once, as on a file system with a journal of names. The bench makes the state after the cut: the image,
 * and by chance some of the blocks in which the file differs, because a disk may write early what nobody asked
 * it to write yet, and in any order.
 *
 * A kill in the middle of an update leaves part of it in the image. That is a power cut during the fsync, and
 * nobody has been told yet that it succeeded.
 *
 * POWERCUT_DELAY_MS makes every fsync take so much longer, with or without an image: a slow disk.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096

/* The image's path of a file, or 0 if the file is none of ours. */
static int image_of(const char *path, char *image) {
    const char *dir = getenv("POWERCUT_DIR"), *root = getenv("POWERCUT_IMAGE");
    if (!dir || !root) return 0;
    size_t length = strlen(dir);
    if (strncmp(path, dir, length) || path[length] != '/') return 0;
    return snprintf(image, PATH_MAX, "%s%s", root, path + length) < PATH_MAX;
}

/* Writes those blocks of the file that its image has otherwise; 0 if that failed. */
static int copy_changes(int from, int to) {
    char now[BLOCK], before[BLOCK];
    off_t at = 0;
    for (;;) {
        ssize_t length = pread(from, now, BLOCK, at);
        if (length < 0) return 0;
        if (length == 0) return ftruncate(to, at) == 0;
        if (pread(to, before, (size_t)length, at) != length || memcmp(now, before, (size_t)length))
            if (pwrite(to, now, (size_t)length, at) != length) return 0;
        at += length;
    }
}

/* Brings the image of an open file up to date; 0 if that failed. */
static int keep(int fd) {
    char link[64], path[PATH_MAX], image[PATH_MAX];
    struct stat about;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0 || fstat(fd, &about) || !S_ISREG(about.st_mode)) return 1;
    path[length] = 0;
    if (!image_of(path, image)) return 1;
    int from = open(path, O_RDONLY); /* the descriptor itself may be write-only */
    if (from < 0) return errno == ENOENT; /* unlinked meanwhile */
    int to = open(image, O_RDWR | O_CREAT, 0600);
    int kept = to >= 0 && copy_changes(from, to);
    close(from);
    if (to >= 0) close(to);
    return kept;
}

static int sync_with(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *delay = getenv("POWERCUT_DELAY_MS");
    if (delay) {
        long ms = atol(delay);
        struct timespec pause = {ms / 1000, ms % 1000 * 1000000L};
        nanosleep(&pause, NULL);
    }
    if (real(fd)) return -1;
    if (!keep(fd)) abort(); /* the image would be a lie: better a platform that has died, which the bench sees */
    return 0;
}

int fsync(int fd) { return sync_with("fsync", fd); }
int fdatasync(int fd) { return sync_with("fdatasync", fd); }

int unlink(const char *path) {
    int (*real)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
    char image[PATH_MAX];
    int result = real(path);
    if (!result && image_of(path, image)) real(image);
    return result;
}

int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *) = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    char image_from[PATH_MAX], image_to[PATH_MAX];
    int result = real(from, to);
    if (!result && image_of(from, image_from) && image_of(to, image_to)) real(image_from, image_to);
    return result;
}
