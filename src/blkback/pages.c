/* SPDX-License-Identifier: BSD-2-Clause */
#include "pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/queue.h>

#define NONE 0xffffu

/* Pages that were mapped in one call and can only be unmapped in one. */
struct chunk {
	uint8_t *base;
	uint32_t users; /* pages of it in requests: one page can be in many */
	uint16_t count;
	uint16_t first; /* of its pages, linked by next_in_chunk */
	bool used;	/* since pages_age() looked last */
	TAILQ_ENTRY(chunk) lru;
};

/* A mapped page. */
struct page {
	uint32_t gref;
	uint16_t next_in_bucket, next_in_chunk;
	uint16_t chunk;
	uint16_t offset; /* in pages */
};

struct pages {
	struct pages_config c;

	uint8_t *buffers;
	uint16_t *free_buffers; /* a stack: the page used last is the warmest */
	unsigned nfree_buffers; /* or how many more may be lent */

	struct page *pages;
	uint16_t *free_pages;
	unsigned nfree_pages;
	uint16_t *buckets; /* first page of those whose grants hash to this */
	unsigned bucket_mask;
	struct chunk *chunks;
	uint16_t *free_chunks;
	unsigned nfree_chunks;
	TAILQ_HEAD(, chunk) lru; /* the longest unused first */
};

/* ---- memory ---- */

static unsigned
power_of_two_above(unsigned n)
{
	unsigned power = 1;

	while (power < n)
		power *= 2;
	return power;
}

static uint16_t *
stack_of(unsigned count)
{
	uint16_t *stack = calloc(count, sizeof(*stack));

	for (unsigned i = 0; stack != NULL && i < count; i++)
		stack[i] = count - 1 - i;
	return stack;
}

static bool
allocate_cache(struct pages *p)
{
	unsigned buckets = power_of_two_above(p->c.cache_pages);

	p->pages = calloc(p->c.cache_pages, sizeof(*p->pages));
	p->chunks = calloc(p->c.cache_pages, sizeof(*p->chunks));
	p->free_pages = stack_of(p->c.cache_pages);
	p->free_chunks = stack_of(p->c.cache_pages);
	p->buckets = malloc(buckets * sizeof(*p->buckets));
	if (p->pages == NULL || p->chunks == NULL || p->free_pages == NULL ||
	    p->free_chunks == NULL || p->buckets == NULL)
		return false;
	memset(p->buckets, 0xff, buckets * sizeof(*p->buckets));
	p->bucket_mask = buckets - 1;
	p->nfree_pages = p->nfree_chunks = p->c.cache_pages;
	return true;
}

struct pages *
pages_new(const struct pages_config *config)
{
	struct pages *p;
	void *buffers;

	if (config->buffer_pages < VBD_MAX_SEGMENTS || config->buffer_pages >= NONE ||
	    config->cache_pages >= NONE) {
		errno = EINVAL;
		return NULL;
	}
	p = calloc(1, sizeof(*p));
	if (p == NULL)
		return NULL;
	p->c = *config;
	xpv_counter_set(&p->c.stats->mapped, 0); /* whatever a killed worker had */
	TAILQ_INIT(&p->lru);
	/* Mapped, not allocated: untouched ones, as where pages are lent, cost nothing. */
	buffers = mmap(NULL, (size_t)config->buffer_pages * XPV_PAGE_SIZE, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buffers != MAP_FAILED)
		p->buffers = buffers;
	p->free_buffers = stack_of(config->buffer_pages);
	p->nfree_buffers = config->buffer_pages;
	if (p->buffers == NULL || p->free_buffers == NULL ||
	    (config->cache_pages > 0 && !allocate_cache(p))) {
		pages_free(p);
		errno = ENOMEM;
		return NULL;
	}
	return p;
}

static void drop(struct pages *p, struct chunk *chunk);

void
pages_free(struct pages *p)
{
	if (p == NULL)
		return;
	while (!TAILQ_EMPTY(&p->lru))
		drop(p, TAILQ_FIRST(&p->lru));
	if (p->buffers != NULL)
		munmap(p->buffers, (size_t)p->c.buffer_pages * XPV_PAGE_SIZE);
	free(p->free_buffers);
	free(p->pages);
	free(p->free_pages);
	free(p->buckets);
	free(p->chunks);
	free(p->free_chunks);
	free(p);
}

/* ---- what is mapped ---- */

static uint16_t *
bucket(const struct pages *p, uint32_t gref)
{
	/* Neighbours are granted together: spreading them is enough. */
	return &p->buckets[gref & p->bucket_mask];
}

static uint16_t
find(const struct pages *p, uint32_t gref)
{
	uint16_t i = *bucket(p, gref);

	while (i != NONE && p->pages[i].gref != gref)
		i = p->pages[i].next_in_bucket;
	return i;
}

static void
unlink_page(struct pages *p, uint16_t page)
{
	uint16_t *link = bucket(p, p->pages[page].gref);

	while (*link != page)
		link = &p->pages[*link].next_in_bucket;
	*link = p->pages[page].next_in_bucket;
	p->free_pages[p->nfree_pages++] = page;
}

/* Unmaps a chunk that nobody uses. */
static void
drop(struct pages *p, struct chunk *chunk)
{
	for (uint16_t i = chunk->first, next; i != NONE; i = next) {
		next = p->pages[i].next_in_chunk;
		unlink_page(p, i);
	}
	TAILQ_REMOVE(&p->lru, chunk, lru);
	xpv_gntdev_unmap(p->c.gntdev, chunk->base, chunk->count);
	p->free_chunks[p->nfree_chunks++] = chunk - p->chunks;
	xpv_counter_set(&p->c.stats->mapped, p->c.cache_pages - p->nfree_pages);
}

static bool
make_room(struct pages *p, unsigned count)
{
	struct chunk *chunk, *next;

	for (chunk = TAILQ_FIRST(&p->lru); chunk != NULL && p->nfree_pages < count; chunk = next) {
		next = TAILQ_NEXT(chunk, lru);
		if (chunk->users == 0)
			drop(p, chunk);
	}
	return p->nfree_pages >= count && p->nfree_chunks > 0;
}

static bool
map(struct pages *p, const uint32_t *grefs, unsigned count)
{
	struct chunk *chunk;
	uint8_t *base;
	uint16_t i;

	if (count > p->c.cache_pages || !make_room(p, count))
		return false;
	base = xpv_gntdev_map(p->c.gntdev, p->c.domid, grefs, count, true);
	if (base == NULL)
		return false;
	chunk = &p->chunks[p->free_chunks[--p->nfree_chunks]];
	*chunk = (struct chunk){.base = base, .count = count, .first = NONE, .used = true};
	TAILQ_INSERT_TAIL(&p->lru, chunk, lru);
	for (unsigned n = 0; n < count; n++) {
		i = p->free_pages[--p->nfree_pages];
		p->pages[i] = (struct page){
		    .gref = grefs[n],
		    .next_in_bucket = *bucket(p, grefs[n]),
		    .next_in_chunk = chunk->first,
		    .chunk = chunk - p->chunks,
		    .offset = n,
		};
		*bucket(p, grefs[n]) = i;
		chunk->first = i;
	}
	xpv_counter_set(&p->c.stats->mapped, p->c.cache_pages - p->nfree_pages);
	return true;
}

static void
use(struct pages *p, uint16_t page)
{
	struct chunk *chunk = &p->chunks[p->pages[page].chunk];

	chunk->users++;
	chunk->used = true;
	TAILQ_REMOVE(&p->lru, chunk, lru);
	TAILQ_INSERT_TAIL(&p->lru, chunk, lru);
}

static bool
among(const uint32_t *grefs, unsigned count, uint32_t gref)
{
	for (unsigned i = 0; i < count; i++) {
		if (grefs[i] == gref)
			return true;
	}
	return false;
}

/* Those that are known are used first, so that making room for the others does not take them. */
static bool
get_mapped(struct pages *p, struct page_set *set, const uint32_t *grefs, unsigned count)
{
	uint32_t missing[VBD_MAX_SEGMENTS];
	unsigned nmissing = 0;

	if (p->c.cache_pages == 0)
		return false;
	set->mapped = true;
	set->count = count;
	for (unsigned i = 0; i < count; i++) {
		set->index[i] = find(p, grefs[i]);
		if (set->index[i] != NONE)
			use(p, set->index[i]);
		else if (!among(missing, nmissing, grefs[i]))
			missing[nmissing++] = grefs[i];
	}
	if (nmissing > 0 && !map(p, missing, nmissing)) {
		pages_put(p, set);
		return false;
	}
	for (unsigned i = 0; nmissing > 0 && i < count; i++) {
		if (set->index[i] == NONE)
			use(p, set->index[i] = find(p, grefs[i]));
	}
	return true;
}

/* ---- a request's pages ---- */

static void
get_buffers(struct pages *p, struct page_set *set, unsigned count)
{
	set->mapped = false;
	set->count = count;
	for (unsigned i = 0; i < count; i++)
		set->index[i] = p->free_buffers[--p->nfree_buffers];
}

static bool
lend(struct pages *p, struct page_set *set, const uint32_t *grefs, unsigned count, bool writable)
{
	set->lent = xpv_gntdev_map(p->c.gntdev, p->c.domid, grefs, count, writable);
	if (set->lent == NULL)
		return false;
	set->mapped = true;
	set->count = count;
	p->nfree_buffers -= count;
	xpv_counter_add(&p->c.stats->lent, count);
	return true;
}

static void
take_back(struct pages *p, struct page_set *set)
{
	xpv_gntdev_unmap(p->c.gntdev, set->lent, set->count);
	p->nfree_buffers += set->count;
	set->lent = NULL;
}

enum pages_result
pages_get(
    struct pages *p, struct page_set *set, const uint32_t *grefs, unsigned count, bool writable)
{
	set->lent = NULL;
	if (get_mapped(p, set, grefs, count))
		return PAGES_THERE;
	if (p->nfree_buffers < count)
		return PAGES_SHORT;
	if (p->c.lend)
		return lend(p, set, grefs, count, writable) ? PAGES_THERE : PAGES_NOT_GRANTED;
	get_buffers(p, set, count);
	return PAGES_THERE;
}

uint8_t *
pages_address(const struct pages *p, const struct page_set *set, unsigned i)
{
	const struct page *page;

	if (set->lent != NULL)
		return set->lent + (size_t)i * XPV_PAGE_SIZE;
	if (!set->mapped)
		return p->buffers + (size_t)set->index[i] * XPV_PAGE_SIZE;
	page = &p->pages[set->index[i]];
	return p->chunks[page->chunk].base + (size_t)page->offset * XPV_PAGE_SIZE;
}

void
pages_put(struct pages *p, struct page_set *set)
{
	if (set->lent != NULL) {
		take_back(p, set);
		set->count = 0;
	}
	for (unsigned i = 0; i < set->count; i++) {
		if (!set->mapped)
			p->free_buffers[p->nfree_buffers++] = set->index[i];
		else if (set->index[i] != NONE)
			p->chunks[p->pages[set->index[i]].chunk].users--;
	}
	set->count = 0;
}

static bool
read_lent(struct pages *p, uint32_t gref, void *to, unsigned length)
{
	void *page = xpv_gntdev_map(p->c.gntdev, p->c.domid, &gref, 1, false);

	if (page == NULL)
		return false;
	memcpy(to, page, length);
	xpv_gntdev_unmap(p->c.gntdev, page, 1);
	return true;
}

bool
pages_read(struct pages *p, uint32_t gref, void *to, unsigned length)
{
	struct xpv_copy copy = {.local = to, .domid = p->c.domid, .gref = gref, .length = length};
	struct page_set set = {.count = 0};

	if (get_mapped(p, &set, &gref, 1)) {
		memcpy(to, pages_address(p, &set, 0), length);
		pages_put(p, &set);
		return true;
	}
	return p->c.lend ? read_lent(p, gref, to, length)
			 : xpv_gntdev_copy(p->c.gntdev, &copy, 1) == 0;
}

bool
pages_age(struct pages *p)
{
	struct chunk *chunk, *next;

	for (chunk = TAILQ_FIRST(&p->lru); chunk != NULL; chunk = next) {
		next = TAILQ_NEXT(chunk, lru);
		if (!chunk->used && chunk->users == 0)
			drop(p, chunk);
		else
			chunk->used = false;
	}
	return !TAILQ_EMPTY(&p->lru);
}
