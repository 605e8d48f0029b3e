/* A disk that fails on purpose: loaded with LD_PRELOAD in front of the C library.

   The N-th of the chosen calls on paths below one folder fails, or is cut short, or is the moment
   at which the process is killed; `sticky`: all after it too. Set from the environment for a whole
   process (FAULT_FOLDER, FAULT_CALLS, FAULT_AT, FAULT_ACTION, FAULT_STICKY), or from inside it by
   `faults_arm` and `faults_disarm`. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, WRITE = 2, SYNC = 4, RENAME = 8, MKDIR = 16, REMOVE = 32, TRUNCATE = 64, READ = 128, CREATE = 256, ALTER = 512 };
enum { NOTHING = 0, SHORT = -1, KILL = -2 }; /* any other action is an errno */

static char folder[PATH_MAX];
static int calls, action, sticky;
static long at, seen;

void faults_arm(const char *path, int calls_, long at_, int action_, int sticky_) {
    snprintf(folder, sizeof folder, "%s", path);
    at = at_, action = action_, sticky = sticky_, seen = 0;
    calls = calls_;
}

long faults_disarm(void) {
    calls = 0;
    return seen;
}

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

__attribute__((constructor)) static void from_environment(void) {
    const char *path = getenv("FAULT_FOLDER");
    if (path)
        faults_arm(path, number("FAULT_CALLS"), number("FAULT_AT"), number("FAULT_ACTION"),
                   number("FAULT_STICKY"));
}

static int is_below(const char *path) {
    size_t length = strlen(folder);
    return !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int fd_is_below(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_below(path);
}

static int path_is_below(int fd, const char *path) {
    char whole[2 * PATH_MAX], base[PATH_MAX];
    if (*path == '/')
        return is_below(path);
    if (fd != AT_FDCWD)
        return fd_is_below(fd);
    if (!getcwd(base, sizeof base))
        return 0;
    snprintf(whole, sizeof whole, "%s/%s", base, path);
    return is_below(whole);
}

/* What is to happen at this call, which is one of `kind` on a path below the folder. */
static int turn(int kind) {
    if (!(calls & kind))
        return NOTHING;
    long now = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    return at && (now == at || (sticky && now > at)) ? action : NOTHING;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Whether the call is not to be made; then errno is set. Only writes can be cut short. */
static int refused(int kind) {
    int what = turn(kind);
    if (what == KILL)
        die();
    if (what <= 0)
        return 0;
    errno = what;
    return 1;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) \
        real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static mode_t mode_of(int flags, va_list arguments) {
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

/* An open by its flags: a full disk refuses only new files, a read-only one what writes. */
static int kind_of(int flags) {
    int kind = OPEN;
    if (flags & O_CREAT || (flags & __O_TMPFILE) == __O_TMPFILE)
        kind |= CREATE;
    if ((flags & O_ACCMODE) != O_RDONLY)
        kind |= ALTER;
    return kind;
}

#define OPENER(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list arguments; \
        va_start(arguments, flags); \
        mode_t mode = mode_of(flags, arguments); \
        va_end(arguments); \
        if (calls && path_is_below(AT_FDCWD, path) && refused(kind_of(flags))) \
            return -1; \
        return real(path, flags, mode); \
    }
OPENER(open)
OPENER(open64)

#define OPENER_AT(name) \
    int name(int fd, const char *path, int flags, ...) { \
        REAL(int, name, int, const char *, int, ...); \
        va_list arguments; \
        va_start(arguments, flags); \
        mode_t mode = mode_of(flags, arguments); \
        va_end(arguments); \
        if (calls && path_is_below(fd, path) && refused(kind_of(flags))) \
            return -1; \
        return real(fd, path, flags, mode); \
    }
OPENER_AT(openat)
OPENER_AT(openat64)

/* Cut a write in half, or die when half of it is written. */
#define WRITER(name, parameters, arguments_, half) \
    ssize_t name parameters { \
        REAL(ssize_t, name, PARAMETERS_##name); \
        int what = calls && fd_is_below(fd) ? turn(WRITE) : NOTHING; \
        if (what > 0) { \
            errno = what; \
            return -1; \
        } \
        if (what == NOTHING) \
            return real arguments_; \
        ssize_t written = size > 1 ? real half : 0; \
        if (what == KILL) \
            die(); \
        return size > 1 ? written : real arguments_; \
    }
#define PARAMETERS_write int, const void *, size_t
#define PARAMETERS_pwrite int, const void *, size_t, off_t
#define PARAMETERS_pwrite64 int, const void *, size_t, off64_t
WRITER(write, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, size / 2))
WRITER(pwrite, (int fd, const void *data, size_t size, off_t place), (fd, data, size, place),
       (fd, data, size / 2, place))
WRITER(pwrite64, (int fd, const void *data, size_t size, off64_t place), (fd, data, size, place),
       (fd, data, size / 2, place))

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    if (calls && fd_is_below(fd) && refused(WRITE))
        return -1;
    return real(fd, parts, count);
}

#define ON_DESCRIPTOR(type, name, kind, parameters, types, arguments_) \
    type name parameters { \
        REAL(type, name, types); \
        if (calls && fd_is_below(fd) && refused(kind)) \
            return -1; \
        return real arguments_; \
    }
#define COMMA ,
ON_DESCRIPTOR(int, fsync, SYNC, (int fd), int, (fd))
ON_DESCRIPTOR(int, fdatasync, SYNC, (int fd), int, (fd))
ON_DESCRIPTOR(int, ftruncate, TRUNCATE, (int fd, off_t size), int COMMA off_t, (fd, size))
ON_DESCRIPTOR(int, ftruncate64, TRUNCATE, (int fd, off64_t size), int COMMA off64_t, (fd, size))
ON_DESCRIPTOR(ssize_t, read, READ, (int fd, void *data, size_t size), int COMMA void * COMMA size_t,
              (fd, data, size))

#define ON_PATH(name, kind, parameters, types, arguments_) \
    int name parameters { \
        REAL(int, name, types); \
        if (calls && path_is_below(AT_FDCWD, path) && refused(kind)) \
            return -1; \
        return real arguments_; \
    }
ON_PATH(rename, RENAME, (const char *path, const char *to), const char * COMMA const char *,
        (path, to))
ON_PATH(mkdir, MKDIR, (const char *path, mode_t mode), const char * COMMA mode_t, (path, mode))
ON_PATH(unlink, REMOVE, (const char *path), const char *, (path))
ON_PATH(rmdir, REMOVE, (const char *path), const char *, (path))

int unlinkat(int fd, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    if (calls && path_is_below(fd, path) && refused(REMOVE))
        return -1;
    return real(fd, path, flags);
}

int renameat(int fd, const char *path, int to_fd, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    if (calls && path_is_below(fd, path) && refused(RENAME))
        return -1;
    return real(fd, path, to_fd, to);
}
