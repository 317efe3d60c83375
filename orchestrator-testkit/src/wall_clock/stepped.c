/* Preloaded into a program: its wall clock is off by what a shared file says, which may change at any time, as when an
 * administrator or NTP steps a machine's clock. As there, a wait until a time of that clock ends when that clock gets
 * there, however long that takes, and the monotonic clock knows of nothing. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL

/* The layout that the other side, mod.rs, writes and reads. */
struct shared {
        _Atomic int64_t offset_ns;
        _Atomic uint64_t times_read;
};

static struct shared *shared;

__attribute__((constructor)) static void begin(void) {
        const char *path = getenv("ORCHESTRATOR_WALL_CLOCK");
        int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
        if (file < 0)
                return;
        void *memory = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        if (memory != MAP_FAILED)
                shared = memory;
}

static int64_t in_ns(const struct timespec *time) {
        return time->tv_sec * NS + time->tv_nsec;
}

static struct timespec of_ns(int64_t ns) {
        return (struct timespec){.tv_sec = ns / NS, .tv_nsec = ns % NS};
}

/* The kernel's, asked past whatever is named clock_gettime in this process. */
static int64_t true_ns(void) {
        struct timespec time;
        syscall(SYS_clock_gettime, CLOCK_REALTIME, &time);
        return in_ns(&time);
}

static int64_t offset_ns(void) {
        if (!shared)
                return 0;
        atomic_fetch_add_explicit(&shared->times_read, 1, memory_order_relaxed);
        return atomic_load_explicit(&shared->offset_ns, memory_order_relaxed);
}

static int64_t wall_ns(void) {
        return true_ns() + offset_ns();
}

int clock_gettime(clockid_t id, struct timespec *time) {
        int result = syscall(SYS_clock_gettime, id, time);
        if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
                *time = of_ns(in_ns(time) + offset_ns());
        return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
        (void)zone;
        int64_t now = wall_ns();
        *time = (struct timeval){.tv_sec = now / NS, .tv_usec = now % NS / 1000};
        return 0;
}

time_t time(time_t *out) {
        time_t now = wall_ns() / NS;
        if (out)
                *out = now;
        return now;
}

int timespec_get(struct timespec *time, int base) {
        if (base != TIME_UTC)
                return 0;
        *time = of_ns(wall_ns());
        return base;
}

/* How librdkafka waits. In glibc a cnd_t is a pthread_cond_t and a mtx_t a pthread_mutex_t. */
int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until) {
        for (;;) {
                int64_t left = in_ns(until) - wall_ns();
                if (left <= 0)
                        return thrd_timedout;
                struct timespec end = of_ns(true_ns() + left);
                switch (pthread_cond_timedwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, &end)) {
                case 0:
                        return thrd_success;
                case ETIMEDOUT:
                        /* Not by that clock, if it was set back meanwhile. */
                        break;
                default:
                        return thrd_error;
                }
        }
}
