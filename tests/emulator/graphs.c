/* Graphs: the nodes that a capture leaves, and their replay as work with the same dependencies. */
#include "internal.h"

#include <stdlib.h>

typedef struct node {
    operation_t operation;
    int         device;
    size_t      index;
    bool        wanted;
    list_t      dependencies; /* nodes of the same graph, all of them before this one */
} node_t;

struct graph {
    cudaGraph_t handle;
    bool        is_captured; /* the capture has ended */
    list_t      nodes;       /* owned */
};

struct executable {
    cudaGraphExec_t handle;
    unsigned int    references; /* the handle, and nodes of other graphs that launch it */
    list_t          nodes;      /* owned copies of the graph's */
    work_t         *last;       /* the end of the last launch: launches of one executable graph follow each other */
};

static size_t n_captured; /* graphs whose capture has ended and that are not destroyed */

/* ---- nodes ------------------------------------------------------------------------------------------------------- */

static node_t *add_node(list_t *nodes, int device, const operation_t *operation)
{
    node_t *node = allocate(sizeof(*node));
    node->operation = *operation;
    node->device = device;
    node->index = nodes->count;
    list_add(nodes, node);
    return node;
}

static void free_nodes(list_t *nodes)
{
    for (size_t i = 0; i < nodes->count; i++) {
        node_t *node = nodes->items[i];
        operation_release(&node->operation);
        list_free(&node->dependencies);
        free(node);
    }
    list_free(nodes);
}

static void copy_nodes(const list_t *from, list_t *to)
{
    for (size_t i = 0; i < from->count; i++) {
        const node_t *node = from->items[i];
        operation_t   operation = operation_copy(&node->operation);
        node_t       *copy = add_node(to, node->device, &operation);
        for (size_t j = 0; j < node->dependencies.count; j++) {
            const node_t *dependency = node->dependencies.items[j];
            list_add(&copy->dependencies, to->items[dependency->index]);
        }
    }
}

/* ---- graphs ------------------------------------------------------------------------------------------------------ */

graph_t *graph_create(void)
{
    graph_t *graph = allocate(sizeof(*graph));
    graph->handle = handle_create(HANDLE_GRAPH, graph);
    return graph;
}

void graph_free(graph_t *graph)
{
    n_captured -= graph->is_captured;
    handle_destroy(HANDLE_GRAPH, graph->handle);
    free_nodes(&graph->nodes);
    free(graph);
}

cudaGraph_t graph_publish(graph_t *graph)
{
    graph->is_captured = true;
    n_captured++;
    return graph->handle;
}

cudaGraph_t graph_handle(const graph_t *graph)
{
    return graph->handle;
}

void *graph_add(graph_t *graph, int device, const operation_t *operation, const list_t *dependencies)
{
    node_t *node = add_node(&graph->nodes, device, operation);
    for (size_t i = 0; i < dependencies->count; i++) {
        list_add(&node->dependencies, dependencies->items[i]);
    }
    return node;
}

bool graph_is_joined(const graph_t *graph, const list_t *ends)
{
    bool is_joined = true;
    for (size_t i = 0; i < ends->count; i++) {
        node_t *end = ends->items[i];
        end->wanted = true;
    }
    for (size_t i = graph->nodes.count; i > 0; i--) {
        node_t *node = graph->nodes.items[i - 1];
        is_joined = is_joined && node->wanted;
        for (size_t j = 0; node->wanted && j < node->dependencies.count; j++) {
            node_t *dependency = node->dependencies.items[j];
            dependency->wanted = true;
        }
        node->wanted = false;
    }
    return is_joined;
}

static graph_t *find_captured(cudaGraph_t handle)
{
    graph_t *graph = handle_find(HANDLE_GRAPH, handle);
    return graph != NULL && graph->is_captured ? graph : NULL;
}

cudaError_t emulator_cudaGraphDestroy(cudaGraph_t graph)
{
    call_t call = {.record.name = "cudaGraphDestroy"};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        graph_t *found = find_captured(graph);
        call.result = found != NULL ? cudaSuccess : cudaErrorInvalidValue;
        if (found != NULL) {
            graph_free(found);
        }
    }
    return call_end(&call);
}

/* ---- executable graphs ------------------------------------------------------------------------------------------- */

void executable_retain(executable_t *executable)
{
    executable->references++;
}

void executable_release(executable_t *executable)
{
    if (executable == NULL || --executable->references > 0) {
        return;
    }
    work_release(executable->last);
    free_nodes(&executable->nodes);
    free(executable);
}

static cudaError_t instantiate(cudaGraphExec_t *handle, cudaGraph_t graph_handle)
{
    const graph_t *graph = find_captured(graph_handle);
    if (handle == NULL || graph == NULL) {
        return cudaErrorInvalidValue;
    }
    executable_t *executable = allocate(sizeof(*executable));
    executable->references = 1;
    copy_nodes(&graph->nodes, &executable->nodes);
    executable->handle = handle_create(HANDLE_EXECUTABLE_GRAPH, executable);
    *handle = executable->handle;
    return cudaSuccess;
}

cudaError_t emulator_cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags)
{
    call_t call = {.record = {.name = "cudaGraphInstantiate", .flags = (unsigned int)flags}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.result = instantiate(executable, graph);
    }
    return call_end(&call);
}

cudaError_t emulator_cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    call_t call = {.record.name = "cudaGraphExecDestroy"};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        executable_t *found = handle_find(HANDLE_EXECUTABLE_GRAPH, executable);
        call.result = found != NULL ? cudaSuccess : cudaErrorInvalidValue;
        handle_destroy(HANDLE_EXECUTABLE_GRAPH, executable);
        executable_release(found);
    }
    return call_end(&call);
}

/* ---- launch ------------------------------------------------------------------------------------------------------ */

static bool frees(const executable_t *executable, const block_t *block)
{
    for (size_t i = 0; i < executable->nodes.count; i++) {
        const node_t *node = executable->nodes.items[i];
        if (node->operation.kind == OPERATION_FREE && node->operation.block == block) {
            return true;
        }
    }
    return false;
}

/* What a launch allocated and did not free must be freed before the next launch. */
static cudaError_t check_memory(const executable_t *executable)
{
    for (size_t i = 0; i < executable->nodes.count; i++) {
        const node_t  *node = executable->nodes.items[i];
        const block_t *block = node->operation.kind == OPERATION_ALLOCATE ? node->operation.block : NULL;
        if (block != NULL && block->allocated && !frees(executable, block)) {
            return cudaErrorInvalidValue;
        }
        if (node->operation.kind == OPERATION_LAUNCH_GRAPH && check_memory(node->operation.executable) != cudaSuccess) {
            return cudaErrorInvalidValue;
        }
    }
    return cudaSuccess;
}

/* From the launch on, the host may use the addresses that it allocates. */
static void allocate_memory(const executable_t *executable)
{
    for (size_t i = 0; i < executable->nodes.count; i++) {
        const node_t *node = executable->nodes.items[i];
        block_t      *block = node->operation.kind == OPERATION_ALLOCATE ? node->operation.block : NULL;
        if (block != NULL && !block->allocated) {
            block->allocated = true;
            block_retain(block);
        }
    }
}

static work_t *replay(executable_t *executable, work_t *entry, int device);

static work_t *create_marker(int device)
{
    operation_t marker = {.kind = OPERATION_MARKER};
    return work_create(device, &marker);
}

static void depend_on_nodes(work_t *work, const node_t *node, work_t *const *works, work_t *entry)
{
    work_depend(work, entry);
    for (size_t i = 0; i < node->dependencies.count; i++) {
        const node_t *dependency = node->dependencies.items[i];
        work_depend(work, works[dependency->index]);
    }
}

static work_t *replay_graph(const node_t *node, work_t *const *works, work_t *entry)
{
    executable_t *executable = node->operation.executable;
    work_t       *inner = create_marker(node->device);
    depend_on_nodes(inner, node, works, entry);
    work_depend(inner, executable->last);
    work_enqueue(inner);
    work_t *end = replay(executable, inner, node->device);
    work_enqueue(end);
    work_release(inner);
    return end;
}

static work_t *replay_node(const node_t *node, work_t *const *works, work_t *entry)
{
    operation_kind_t kind = node->operation.kind;
    if (kind == OPERATION_LAUNCH_GRAPH) {
        return replay_graph(node, works, entry);
    }
    bool        is_event = kind == OPERATION_RECORD_EVENT || kind == OPERATION_WAIT_EVENT;
    operation_t operation = {.kind = OPERATION_MARKER};
    if (!is_event) {
        operation = operation_copy(&node->operation);
        operation.life = operation.block != NULL ? operation.block->life : 0;
    }
    work_t *work = work_create(node->device, &operation);
    depend_on_nodes(work, node, works, entry);
    if (kind == OPERATION_WAIT_EVENT) {
        work_depend(work, node->operation.event->work);
    }
    work_enqueue(work);
    if (kind == OPERATION_RECORD_EVENT) {
        event_recorded(node->operation.event, work);
    }
    return work;
}

/* Enqueues the work of all nodes behind the entry. The piece returned stands for the end, is not enqueued yet, and
 * is the caller's. */
static work_t *replay(executable_t *executable, work_t *entry, int device)
{
    work_t  *end = create_marker(device);
    size_t   count = executable->nodes.count;
    work_t **works = allocate(count * sizeof(*works));
    allocate_memory(executable);
    work_depend(end, entry);
    for (size_t i = 0; i < count; i++) {
        works[i] = replay_node(executable->nodes.items[i], works, entry);
        work_depend(end, works[i]);
    }
    for (size_t i = 0; i < count; i++) {
        work_release(works[i]);
    }
    free(works);
    work_retain(end);
    work_release(executable->last);
    executable->last = end;
    return end;
}

static cudaError_t launch(executable_t *executable, cudaStream_t handle)
{
    stream_t   *stream;
    cudaError_t error = stream_find(handle, &stream);
    if (error == cudaSuccess) {
        error = capture_check_submit(stream);
    }
    if (error == cudaSuccess && stream->capture != NULL) {
        executable_retain(executable);
        operation_t operation = {.kind = OPERATION_LAUNCH_GRAPH, .executable = executable};
        return stream_submit(stream, &operation, NULL);
    }
    if (error == cudaSuccess) {
        error = check_memory(executable);
    }
    if (error != cudaSuccess) {
        return error;
    }
    work_t *entry = create_marker(stream->device);
    work_depend(entry, executable->last);
    stream_append(stream, entry);
    work_t *end = replay(executable, entry, stream->device);
    stream_append(stream, end);
    work_release(entry);
    work_release(end);
    return cudaSuccess;
}

cudaError_t emulator_cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream)
{
    call_t call = {.record = {.name = "cudaGraphLaunch", .stream = stream}};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        executable_t *found = handle_find(HANDLE_EXECUTABLE_GRAPH, executable);
        call.result = found != NULL ? launch(found, stream) : cudaErrorInvalidValue;
    }
    return call_end(&call);
}

void graphs_reset(void)
{
    for (executable_t *executable; (executable = handle_any(HANDLE_EXECUTABLE_GRAPH)) != NULL;) {
        handle_destroy(HANDLE_EXECUTABLE_GRAPH, executable->handle);
        executable_release(executable);
    }
    for (graph_t *graph; (graph = handle_any(HANDLE_GRAPH)) != NULL;) {
        graph_free(graph);
    }
}

size_t emulator_count_graphs(void)
{
    lock();
    size_t count = n_captured;
    unlock();
    return count;
}

size_t emulator_count_executable_graphs(void)
{
    lock();
    size_t count = handle_count(HANDLE_EXECUTABLE_GRAPH);
    unlock();
    return count;
}
