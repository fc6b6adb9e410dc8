/* SPDX-License-Identifier: BSD-2-Clause */
#include "image_pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/loop.h>

#include "image_list.h"

struct image_pool {
	const struct image_pool_ops *ops;
	void *arg;
	unsigned max;

	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t more;
	struct image_list todo, over;
	unsigned ntodo, idle, nthreads;
	pthread_t threads[IMAGE_POOL_MAX];
	bool stopping;

	int eventfd; /* readable: "over" may have some */
	struct event *on_over;
};

static void
work_on_first(struct image_pool *pool)
{
	struct image_io *io = image_list_take(&pool->todo);
	bool first;

	pool->ntodo--;
	pthread_mutex_unlock(&pool->lock);
	io->status = pool->ops->work(pool->arg, io);
	pthread_mutex_lock(&pool->lock);
	first = pool->over.first == NULL;
	image_list_append(&pool->over, io);
	if (first)
		eventfd_write(pool->eventfd, 1);
}

static void *
pool_main(void *arg)
{
	struct image_pool *pool = arg;

	xpv_thread_name("io");
	pthread_mutex_lock(&pool->lock);
	while (!pool->stopping) {
		if (pool->ntodo > 0) {
			work_on_first(pool);
		} else {
			pool->idle++;
			pthread_cond_wait(&pool->more, &pool->lock);
			pool->idle--;
		}
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

void
image_pool_poll(struct image_pool *pool)
{
	struct image_io *io, *next;

	pthread_mutex_lock(&pool->lock);
	io = image_list_take_all(&pool->over);
	pthread_mutex_unlock(&pool->lock);
	for (; io != NULL; io = next) {
		next = io->next;
		pool->ops->over(pool->arg, io);
	}
}

static void
on_over(evutil_socket_t fd, short events, void *arg)
{
	struct image_pool *pool = arg;
	eventfd_t count;

	eventfd_read(fd, &count);
	image_pool_poll(pool);
	pool->ops->batch_over(pool->arg);
}

static void
release(struct image_pool *pool)
{
	if (pool->on_over != NULL)
		event_free(pool->on_over);
	if (pool->eventfd != -1)
		close(pool->eventfd);
	pthread_cond_destroy(&pool->more);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

/* With the lock. False with errno. */
static bool
add_thread(struct image_pool *pool)
{
	int error = pthread_create(&pool->threads[pool->nthreads], NULL, pool_main, pool);

	if (error == 0)
		pool->nthreads++;
	errno = error;
	return error == 0;
}

struct image_pool *
image_pool_start(struct event_base *base, unsigned least, unsigned most,
    const struct image_pool_ops *ops, void *arg)
{
	struct image_pool *pool = calloc(1, sizeof(*pool));
	bool started = true;

	if (pool == NULL)
		return NULL;
	pool->ops = ops;
	pool->arg = arg;
	pool->max = most;
	image_list_clear(&pool->todo);
	image_list_clear(&pool->over);
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->more, NULL);
	pool->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (pool->eventfd != -1)
		pool->on_over = event_new(base, pool->eventfd, EV_READ | EV_PERSIST, on_over, pool);
	if (pool->on_over == NULL || event_add(pool->on_over, NULL) != 0) {
		release(pool);
		errno = ENOMEM;
		return NULL;
	}
	pthread_mutex_lock(&pool->lock);
	while (started && pool->nthreads < least)
		started = add_thread(pool);
	pthread_mutex_unlock(&pool->lock);
	if (started)
		return pool;
	image_pool_stop(pool);
	errno = EAGAIN;
	return NULL;
}

bool
image_pool_submit(struct image_pool *pool, struct image_io *io)
{
	bool taken;

	pthread_mutex_lock(&pool->lock);
	/* Those that are idle may have been woken, and not yet have taken what they were woken for.
	 */
	taken = pool->ntodo < pool->idle || pool->nthreads == pool->max || add_thread(pool) ||
		pool->nthreads > 0;
	if (taken) {
		image_list_append(&pool->todo, io);
		pool->ntodo++;
		pthread_cond_signal(&pool->more);
	}
	pthread_mutex_unlock(&pool->lock);
	return taken;
}

void
image_pool_stop(struct image_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	pool->stopping = true;
	pthread_cond_broadcast(&pool->more);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->nthreads; i++)
		pthread_join(pool->threads[i], NULL);
	release(pool);
}
