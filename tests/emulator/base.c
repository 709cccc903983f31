/* Lists, allocation that cannot fail, and handles: what the other files are built on. */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *allocate(size_t size)
{
    void *memory = calloc(1, size > 0 ? size : 1);
    if (memory == NULL) {
        fputs("emulator: out of host memory\n", stderr);
        abort();
    }
    return memory;
}

static void grow(list_t *list)
{
    size_t capacity = list->capacity > 0 ? 2 * list->capacity : 8;
    void **items = allocate(capacity * sizeof(*items));
    if (list->count > 0) {
        memcpy(items, list->items, list->count * sizeof(*items));
    }
    free(list->items);
    list->items = items;
    list->capacity = capacity;
}

void list_add(list_t *list, void *item)
{
    list_insert(list, list->count, item);
}

void list_add_new(list_t *list, void *item)
{
    if (!list_contains(list, item)) {
        list_add(list, item);
    }
}

void list_insert(list_t *list, size_t index, void *item)
{
    if (list->count == list->capacity) {
        grow(list);
    }
    memmove(list->items + index + 1, list->items + index, (list->count - index) * sizeof(*list->items));
    list->items[index] = item;
    list->count++;
}

bool list_contains(const list_t *list, const void *item)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->items[i] == item) {
            return true;
        }
    }
    return false;
}

void list_remove(list_t *list, const void *item)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->items[i] == item) {
            list->count--;
            memmove(list->items + i, list->items + i + 1, (list->count - i) * sizeof(*list->items));
            return;
        }
    }
}

void list_clear(list_t *list)
{
    list->count = 0;
}

void list_free(list_t *list)
{
    free(list->items);
    *list = (list_t){0};
}

/*
 * A handle is a number in a range of its kind, far from 0, 1 and 2 and from what malloc returns, positive as an int64_t
 * as DLPack wants it, and an address that faults when it is dereferenced.
 */
#define HANDLE_BASE  UINT64_C(0x5E0000000000)
#define HANDLE_RANGE UINT64_C(0x1000000000)
#define HANDLE_STEP  UINT64_C(16)

static list_t objects[HANDLE_KINDS]; /* by number; NULL once destroyed */
static size_t living[HANDLE_KINDS];

static uint64_t handle_base(handle_kind_t kind)
{
    return HANDLE_BASE + (uint64_t)kind * HANDLE_RANGE;
}

void *handle_create(handle_kind_t kind, void *object)
{
    uint64_t number = objects[kind].count;
    list_add(&objects[kind], object);
    living[kind]++;
    return (void *)(uintptr_t)(handle_base(kind) + number * HANDLE_STEP);
}

/* Where the object of a handle is kept; NULL if no such handle was ever created. */
static void **handle_slot(handle_kind_t kind, const void *handle)
{
    uint64_t offset = (uint64_t)(uintptr_t)handle - handle_base(kind);
    bool     created = offset % HANDLE_STEP == 0 && offset / HANDLE_STEP < objects[kind].count;
    return created ? &objects[kind].items[offset / HANDLE_STEP] : NULL;
}

void *handle_find(handle_kind_t kind, const void *handle)
{
    void **slot = handle_slot(kind, handle);
    if (slot == NULL && handle != NULL) {
        violation("%p is no handle of the kind that is wanted", handle);
    } else if (slot != NULL && *slot == NULL) {
        violation("handle %p is used after it was destroyed", handle);
    }
    return slot != NULL ? *slot : NULL;
}

void handle_destroy(handle_kind_t kind, const void *handle)
{
    void **slot = handle_slot(kind, handle);
    if (slot != NULL && *slot != NULL) {
        *slot = NULL;
        living[kind]--;
    }
}

size_t handle_count(handle_kind_t kind)
{
    return living[kind];
}

void *handle_any(handle_kind_t kind)
{
    for (size_t i = objects[kind].count; i > 0 && living[kind] > 0; i--) {
        if (objects[kind].items[i - 1] != NULL) {
            return objects[kind].items[i - 1];
        }
    }
    return NULL;
}
