/* Allocations: where they come from, when they take effect and lose it, what they are filled with, and what is left. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* What the runtime rounds to; cudaMalloc promises at least 256. */
#define ALIGNMENT ((size_t)512)

static const char *const kind_names[] = {"device", "pool", "managed", "pinned", "graph"};

static list_t             blocks; /* by address: allocated, kept for reuse, or waiting for a graph to allocate them */
static unsigned long long n_frees;

/* How many blocks begin at or below the address. */
static size_t blocks_up_to(const void *pointer)
{
    size_t low = 0;
    size_t high = blocks.count;
    while (low < high) {
        size_t         middle = low + (high - low) / 2;
        const block_t *block = blocks.items[middle];
        if ((uintptr_t)block->base <= (uintptr_t)pointer) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

block_t *block_find(const void *pointer)
{
    size_t   count = blocks_up_to(pointer);
    block_t *block = count > 0 ? blocks.items[count - 1] : NULL;
    bool     inside = block != NULL && (uintptr_t)pointer - (uintptr_t)block->base < block->capacity;
    return inside ? block : NULL;
}

void block_retain(block_t *block)
{
    block->references++;
}

void block_release(block_t *block)
{
    if (block == NULL || --block->references > 0) {
        return;
    }
    list_remove(&blocks, block);
    work_release(block->free_work);
    free(block->base);
    free(block);
}

static size_t memory_of(int device)
{
    size_t size = 0;
    for (size_t i = 0; i < blocks.count; i++) {
        const block_t *block = blocks.items[i];
        size += block->device == device ? block->capacity : 0;
    }
    return size;
}

/* Memory of a graph belongs to it until no node and no replay is left. */
static bool is_reusable(const block_t *block)
{
    bool is_owned = block->kind == MEMORY_GRAPH && block->references > 1;
    return !block->allocated && !is_owned && work_is_done(block->free_work);
}

/* Gives back what is only kept for reuse. */
static void trim(int device)
{
    for (size_t i = blocks.count; i > 0; i--) {
        block_t *block = blocks.items[i - 1];
        if (block->device == device && block->references == 1 && is_reusable(block)) {
            block_release(block);
        }
    }
}

static block_t *create_block(memory_kind_t kind, int device, size_t size)
{
    if (size > EMULATOR_DEVICE_MEMORY) {
        return NULL;
    }
    size_t capacity = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (memory_of(device) + capacity > EMULATOR_DEVICE_MEMORY) {
        trim(device);
    }
    if (memory_of(device) + capacity > EMULATOR_DEVICE_MEMORY) {
        return NULL;
    }
    unsigned char *base = aligned_alloc(ALIGNMENT, capacity);
    if (base == NULL) {
        return NULL;
    }
    memset(base, EMULATOR_FRESH, capacity);
    block_t *block = allocate(sizeof(*block));
    *block = (block_t){.base = base, .capacity = capacity, .kind = kind, .device = device, .references = 1};
    list_insert(&blocks, blocks_up_to(base), block);
    return block;
}

/* Real pools hand out what was freed last, and on the stream of the free before the free has taken effect. */
static block_t *find_kept(memory_kind_t kind, int device, size_t size, unsigned long long stream)
{
    block_t *best = NULL;
    for (size_t i = 0; i < blocks.count; i++) {
        block_t *block = blocks.items[i];
        bool     fits = block->kind == kind && block->device == device && block->capacity >= size && !block->allocated;
        bool     in_order = is_reusable(block) || (stream != 0 && block->freed_on == stream);
        bool     better = best == NULL || block->capacity < best->capacity ||
                          (block->capacity == best->capacity && block->freed_at > best->freed_at);
        if (fits && in_order && better) {
            best = block;
        }
    }
    return best;
}

block_t *memory_take(memory_kind_t kind, int device, size_t size, unsigned long long stream)
{
    block_t *block = find_kept(kind, device, size, stream);
    if (block == NULL) {
        block = create_block(kind, device, size);
    }
    if (block != NULL) {
        block->size = size;
        block->allocated = kind != MEMORY_GRAPH;
        work_release(block->free_work);
        block->free_work = NULL;
    }
    return block;
}

block_t *memory_for_graph(int device, size_t size, unsigned long long capture)
{
    block_t *block = memory_take(MEMORY_GRAPH, device, size, 0);
    if (block != NULL) {
        block->capture = capture;
        block->free_captured = false;
    }
    return block;
}

void block_take_effect(block_t *block, unsigned long long life)
{
    if (block->life != life) {
        return;
    }
    if (block->kind == MEMORY_GRAPH && !block->allocated) {
        block->allocated = true;
        block_retain(block);
    }
    block->present = true;
    memset(block->base, EMULATOR_FRESH, block->size);
}

void block_lose_effect(block_t *block, unsigned long long life)
{
    if (block->life != life) {
        return;
    }
    block->present = false;
    memset(block->base, EMULATOR_FREED, block->capacity);
    if (block->kind == MEMORY_GRAPH && block->allocated) {
        block->allocated = false;
        block_release(block);
    }
}

void block_freed_on(block_t *block, const stream_t *stream)
{
    block->allocated = false;
    block->freed_at = ++n_frees;
    block->freed_on = stream->id;
}

void block_free_now(block_t *block)
{
    block->allocated = false;
    block->present = false;
    block->life++;
    block->freed_at = ++n_frees;
    block->freed_on = 0;
    memset(block->base, EMULATOR_FREED, block->capacity);
    if (block->kind == MEMORY_GRAPH) {
        block_release(block);
    }
}

void memory_touch(const char *name, const void *pointer, size_t size)
{
    const block_t *block = block_find(pointer);
    if (block != NULL && !block->present) {
        violation("%s %zu bytes at %p that are freed, or not allocated yet, in stream order", name, size, pointer);
    }
}

void memory_reset(void)
{
    while (blocks.count > 0) {
        block_t *block = blocks.items[blocks.count - 1];
        block->references = 1;
        block_release(block);
    }
}

uint64_t memory_in_pool(int device, bool in_use)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < blocks.count; i++) {
        const block_t *block = blocks.items[i];
        if (block->kind == MEMORY_POOL && block->device == device) {
            bool is_used = block->allocated || block->present;
            bytes += in_use ? (is_used ? block->size : 0) : block->capacity;
        }
    }
    return bytes;
}

size_t emulator_count_allocations(void)
{
    lock();
    size_t count = 0;
    for (size_t i = 0; i < blocks.count; i++) {
        count += ((const block_t *)blocks.items[i])->allocated;
    }
    unlock();
    return count;
}

static const block_t *find_nth_allocated(size_t index)
{
    for (size_t i = 0; i < blocks.count; i++) {
        const block_t *block = blocks.items[i];
        if (block->allocated && index-- == 0) {
            return block;
        }
    }
    return NULL;
}

int emulator_get_allocation(size_t index, emulator_allocation_t *allocation)
{
    lock();
    const block_t *block = find_nth_allocated(index);
    if (block != NULL) {
        *allocation = (emulator_allocation_t){
            .kind = kind_names[block->kind], .pointer = block->base, .size = block->size, .device = block->device};
    }
    unlock();
    return block != NULL ? 0 : -1;
}
