/* Makes a real thread of the real program hang, for the tests of the watchdog.
 *
 * Preloaded by LD_PRELOAD, it stands in front of a few libc functions. As long
 * as the file named by HANG_WHEN does not exist they pass straight through.
 * From then on, a thread whose name begins with one of the comma-separated
 * HANG_THREADS (or any thread, for "*") never returns from a function listed
 * in HANG_CALLS.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <time.h>
#include <unistd.h>

/* Whether `word` (or, with `prefix`, its beginning) stands in a comma list. */
static int listed(const char *list, const char *word, int prefix)
{
    while (list && *list) {
        size_t length = strcspn(list, ",");
        if (length == 1 && *list == '*')
            return 1;
        if (strncmp(list, word, length) == 0 && (prefix || word[length] == '\0'))
            return 1;
        list += length + (list[length] == ',');
    }
    return 0;
}

static void hang_if_asked(const char *call)
{
    const char *when = getenv("HANG_WHEN");
    char name[17] = "";
    int saved = errno;
    struct timespec long_time = { 3600, 0 };

    if (when && listed(getenv("HANG_CALLS"), call, 0) && access(when, F_OK) == 0) {
        prctl(PR_GET_NAME, name, 0, 0, 0);
        if (listed(getenv("HANG_THREADS"), name, 1)) {
            for (;;)
                ppoll(NULL, 0, &long_time, NULL);
        }
    }
    errno = saved;
}

#define NEXT(type, name) \
    static type next; \
    if (!next) \
        next = (type)dlsym(RTLD_NEXT, #name)

int epoll_wait(int epfd, struct epoll_event *events, int max, int timeout)
{
    typedef int (*fn)(int, struct epoll_event *, int, int);
    NEXT(fn, epoll_wait);
    hang_if_asked("epoll_wait");
    return next(epfd, events, max, timeout);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left)
{
    typedef int (*fn)(clockid_t, int, const struct timespec *, struct timespec *);
    NEXT(fn, clock_nanosleep);
    hang_if_asked("clock_nanosleep");
    return next(clock, flags, until, left);
}

int nanosleep(const struct timespec *wanted, struct timespec *left)
{
    typedef int (*fn)(const struct timespec *, struct timespec *);
    NEXT(fn, nanosleep);
    hang_if_asked("nanosleep");
    return next(wanted, left);
}

int pthread_join(pthread_t thread, void **value)
{
    typedef int (*fn)(pthread_t, void **);
    NEXT(fn, pthread_join);
    hang_if_asked("pthread_join");
    return next(thread, value);
}
