/* A disk that is full from its n-th change on, and a wall clock that goes back: loaded in front of the C library.
 *
 * Counted are all calls that change something under one folder: files and folders made, bytes written, files made longer,
 * flushes. The first write that fails leaves half of its bytes, as a real disk does. On a full disk names can still be
 * removed and exchanged and files cut; on one that fails in another way they cannot be exchanged. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char folder[PATH_MAX];
static long changes, fails_at = -1, back_s;
static int number = ENOSPC, halved;

/* From now on: the change with this number (from 1) and all behind it fail; 0 counts only. */
void faulty_begin(const char *under, long at, int error, long clock_back_s) {
    strncpy(folder, under, PATH_MAX - 1);
    changes = 0, halved = 0, fails_at = at, number = error, back_s = clock_back_s;
}

long faulty_changes(void) { return changes; }

static int inside(const char *path) {
    size_t length = strlen(folder);
    return length && strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int file_inside(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t n = fails_at < 0 ? -1 : readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return inside(path);
}

static int path_inside(int at, const char *path) {
    char here[PATH_MAX];
    if (fails_at < 0) return 0;
    if (path[0] == '/') return inside(path);
    return at == AT_FDCWD ? getcwd(here, sizeof here) && inside(here) : file_inside(at);
}

static int fails(int counted) {
    if (!counted) return 0;
    changes++;
    if (fails_at == 0 || changes < fails_at) return 0;
    errno = number;
    return 1;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int file, const void *bytes, size_t count) {
    REAL(write);
    if (fails(file_inside(file))) {
        if (halved || count < 2) return -1;
        halved = 1;
        return real(file, bytes, count / 2);
    }
    return real(file, bytes, count);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    REAL(writev);
    return fails(file_inside(file)) ? -1 : real(file, parts, count);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) {
    REAL(pwrite);
    return fails(file_inside(file)) ? -1 : real(file, bytes, count, at);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) {
    REAL(pwrite64);
    return fails(file_inside(file)) ? -1 : real(file, bytes, count, at);
}

int ftruncate(int file, off_t length) {
    REAL(ftruncate);
    struct stat now;
    int grows = fstat(file, &now) == 0 && length > now.st_size;
    return fails(grows && file_inside(file)) ? -1 : real(file, length);
}

int ftruncate64(int file, off64_t length) {
    REAL(ftruncate64);
    struct stat now;
    int grows = fstat(file, &now) == 0 && length > now.st_size;
    return fails(grows && file_inside(file)) ? -1 : real(file, length);
}

int fsync(int file) {
    REAL(fsync);
    return fails(file_inside(file)) ? -1 : real(file);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return number != ENOSPC && fails(path_inside(AT_FDCWD, to)) ? -1 : real(from, to);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return fails(path_inside(AT_FDCWD, path)) ? -1 : real(path, mode);
}

#define OPEN(name)                                                                                  \
    int name(const char *path, int flags, ...) {                                                    \
        REAL(name);                                                                                 \
        va_list more;                                                                               \
        va_start(more, flags);                                                                      \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                     \
        va_end(more);                                                                               \
        return fails(flags & O_CREAT && path_inside(AT_FDCWD, path)) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                         \
    int name(int at, const char *path, int flags, ...) {                                     \
        REAL(name);                                                                          \
        va_list more;                                                                        \
        va_start(more, flags);                                                               \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;              \
        va_end(more);                                                                        \
        return fails(flags & O_CREAT && path_inside(at, path)) ? -1 : real(at, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

/* Every second reading of the time of day is from before. */
int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    static long readings;
    int found = real(clock, now);
    if (!found && back_s && clock == CLOCK_REALTIME && ++readings % 2 == 0) now->tv_sec -= back_s;
    return found;
}
