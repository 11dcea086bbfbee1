/* What a Python session calls: a batch in one call, the scratch in the thread's own memory; or one picture on several
 * threads. Not part of an export. */
#define _POSIX_C_SOURCE 200809L
#include "$name.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

const int session_shape[] = {${NAME}_SIZE, ${NAME}_COLOURS, ${NAME}_CLASSES, ${NAME}_BACKENDS};

int session_run(int backend, const uint8_t *images, int count, float *logits)
{
    static __thread uint8_t scratch[${NAME}_SCRATCH] __attribute__((aligned(64)));
    int result = 0;
    for (; count > 0 && result == 0; count--) {
        result = ${name}_run_on(backend, images, logits, scratch);
        images += ${NAME}_IMAGE_BYTES;
        logits += ${NAME}_CLASSES;
    }
    return result;
}

/* The threads of one picture. Whoever is free takes the next task; nobody waits for a thread that has none, which on a
 * busy machine may not have started yet. The last one to leave frees it. */
typedef struct {
    uint64_t next; /* how many tasks there are, in the upper half, and how many were taken */
    ${name}_task *task;
    void *work;
    int done, workers, members, over;
} Team;

static int is_taken(uint64_t next)
{
    return (uint32_t)next >= next >> 32;
}

static int take(Team *team, int worker)
{
    const uint64_t next = __atomic_fetch_add(&team->next, 1, __ATOMIC_ACQUIRE);
    if (is_taken(next))
        return 0;
    team->task(team->work, (int)(uint32_t)next, worker);
    __atomic_add_fetch(&team->done, 1, __ATOMIC_RELEASE);
    return 1;
}

static void leave(Team *team)
{
    if (__atomic_sub_fetch(&team->members, 1, __ATOMIC_ACQ_REL) == 0)
        free(team);
}

static void *help(void *context)
{
    Team *team = (Team *)context;
    const int worker = __atomic_fetch_add(&team->workers, 1, __ATOMIC_RELAXED);
    while (!__atomic_load_n(&team->over, __ATOMIC_ACQUIRE))
        if (is_taken(__atomic_load_n(&team->next, __ATOMIC_RELAXED)) || !take(team, worker))
            sched_yield();
    leave(team);
    return NULL;
}

static void share_out(void *context, int tasks, ${name}_task *task, void *work)
{
    Team *team = (Team *)context;
    team->task = task;
    team->work = work;
    team->done = 0;
    __atomic_store_n(&team->next, (uint64_t)tasks << 32, __ATOMIC_RELEASE);
    while (take(team, 0))
        ;
    while (__atomic_load_n(&team->done, __ATOMIC_ACQUIRE) < tasks)
        sched_yield();
}

int session_parallel_scratch(int threads)
{
    return ${NAME}_PARALLEL_SCRATCH(threads);
}

/* scratch: session_parallel_scratch(threads) bytes. Where the system gives fewer threads, it runs on those. */
int session_run_parallel(int backend, const uint8_t *image, float *logits, uint8_t *scratch, int threads)
{
    static const Team alone = {0, NULL, NULL, 0, 1, 1, 0};
    Team *team = (Team *)malloc(sizeof *team);
    pthread_attr_t detached;
    pthread_t thread;
    int result;
    if (!team)
        return session_run(backend, image, 1, logits);
    *team = alone;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    for (; threads > 1; threads--) {
        __atomic_add_fetch(&team->members, 1, __ATOMIC_RELAXED);
        if (pthread_create(&thread, &detached, help, team) != 0) {
            leave(team);
            break;
        }
    }
    pthread_attr_destroy(&detached);
    result = ${name}_run_parallel_on(backend, image, logits, scratch, share_out, team);
    __atomic_store_n(&team->over, 1, __ATOMIC_RELEASE);
    leave(team);
    return result;
}
