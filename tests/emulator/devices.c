/* Devices, which of them have got a context, and the calls about them. */
#include "internal.h"

#define INITIAL_DEVICES 2

static device_t devices[EMULATOR_MAX_DEVICES];
static int      n_devices = INITIAL_DEVICES;

bool device_exists(int device)
{
    return device >= 0 && device < n_devices;
}

device_t *device_get(int device)
{
    return &devices[device];
}

void device_create_context(int device)
{
    devices[device].has_context = true;
}

static void free_streams(device_t *device)
{
    for (size_t i = 0; i < device->streams.count; i++) {
        stream_free(device->streams.items[i]);
    }
    list_free(&device->streams);
    if (device->legacy != NULL) {
        stream_free(device->legacy);
    }
}

void devices_reset(void)
{
    for (int i = 0; i < EMULATOR_MAX_DEVICES; i++) {
        free_streams(&devices[i]);
        devices[i] = (device_t){0};
    }
    n_devices = INITIAL_DEVICES;
}

int emulator_set_device_count(int count)
{
    lock();
    bool is_possible = count >= 0 && count <= EMULATOR_MAX_DEVICES;
    for (int i = is_possible ? count : n_devices; i < n_devices; i++) {
        is_possible = is_possible && !devices[i].has_context;
    }
    if (is_possible) {
        n_devices = count;
    }
    unlock();
    return is_possible ? 0 : -1;
}

bool emulator_has_context(int device)
{
    lock();
    bool has_context = device_exists(device) && devices[device].has_context;
    unlock();
    return has_context;
}

static cudaError_t answer(int *place, int value)
{
    if (place == NULL) {
        return cudaErrorInvalidValue;
    }
    *place = value;
    return cudaSuccess;
}

cudaError_t emulator_cudaGetDeviceCount(int *count)
{
    call_t call = {.record.name = "cudaGetDeviceCount"};
    if (call_begin(&call, CALL_PLAIN)) {
        call.result = answer(count, n_devices);
        if (call.result == cudaSuccess && n_devices == 0) {
            call.result = cudaErrorNoDevice;
        }
    }
    return call_end(&call);
}

cudaError_t emulator_cudaGetDevice(int *device)
{
    call_t call = {.record.name = "cudaGetDevice"};
    if (call_begin(&call, CALL_PLAIN)) {
        call.result = n_devices > 0 ? answer(device, this_thread()->device) : cudaErrorNoDevice;
    }
    return call_end(&call);
}

static cudaError_t set_device(int device)
{
    if (n_devices == 0) {
        return cudaErrorNoDevice;
    }
    if (!device_exists(device)) {
        return cudaErrorInvalidDevice;
    }
    this_thread()->device = device;
    device_create_context(device); /* since CUDA 12 at once, not at the first use */
    return cudaSuccess;
}

cudaError_t emulator_cudaSetDevice(int device)
{
    call_t call = {.record = {.name = "cudaSetDevice", .device = device}};
    if (call_begin(&call, CALL_PLAIN)) {
        call.result = set_device(device);
    }
    return call_end(&call);
}

/* What code is likely to ask, with the values of an H200; 0 for everything else. */
static int attribute_value(enum cudaDeviceAttr attribute)
{
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: return 1024;
    case cudaDevAttrMaxBlockDimX: return 1024;
    case cudaDevAttrMaxBlockDimY: return 1024;
    case cudaDevAttrMaxBlockDimZ: return 64;
    case cudaDevAttrMaxGridDimX: return 2147483647;
    case cudaDevAttrMaxGridDimY: return 65535;
    case cudaDevAttrMaxGridDimZ: return 65535;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMultiProcessorCount: return 132;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return 2048;
    case cudaDevAttrComputeCapabilityMajor: return 9;
    case cudaDevAttrComputeCapabilityMinor: return 0;
    case cudaDevAttrCanMapHostMemory: return 1;
    case cudaDevAttrConcurrentKernels: return 1;
    case cudaDevAttrUnifiedAddressing: return 1;
    case cudaDevAttrManagedMemory: return 1;
    case cudaDevAttrConcurrentManagedAccess: return 1;
    case cudaDevAttrStreamPrioritiesSupported: return 1;
    case cudaDevAttrMemoryPoolsSupported: return 1;
    default: return 0;
    }
}

cudaError_t emulator_cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    call_t call = {.record = {.name = "cudaDeviceGetAttribute", .device = device, .flags = (unsigned int)attribute}};
    if (call_begin(&call, CALL_PLAIN)) {
        bool is_attribute = (int)attribute > 0 && (int)attribute < (int)cudaDevAttrMax;
        if (!device_exists(device)) {
            call.result = cudaErrorInvalidDevice;
        } else {
            call.result = is_attribute ? answer(value, attribute_value(attribute)) : cudaErrorInvalidValue;
        }
    }
    return call_end(&call);
}

cudaError_t emulator_cudaDeviceCanAccessPeer(int *can_access, int device, int peer)
{
    call_t call = {.record = {.name = "cudaDeviceCanAccessPeer", .device = device}};
    if (call_begin(&call, CALL_PLAIN)) {
        bool exist = device_exists(device) && device_exists(peer);
        call.result = exist ? answer(can_access, device != peer) : cudaErrorInvalidDevice;
    }
    return call_end(&call);
}

cudaError_t emulator_cudaRuntimeGetVersion(int *version)
{
    call_t call = {.record.name = "cudaRuntimeGetVersion"};
    if (call_begin(&call, CALL_PLAIN)) {
        call.result = answer(version, CUDART_VERSION);
    }
    return call_end(&call);
}

cudaError_t emulator_cudaDriverGetVersion(int *version)
{
    call_t call = {.record.name = "cudaDriverGetVersion"};
    if (call_begin(&call, CALL_PLAIN)) {
        call.result = answer(version, CUDART_VERSION);
    }
    return call_end(&call);
}

static cudaError_t synchronize_device(int device)
{
    cudaError_t error = capture_check_device(device);
    if (error == cudaSuccess) {
        call_blocks();
        work_force_device(device);
    }
    return error;
}

cudaError_t emulator_cudaDeviceSynchronize(void)
{
    call_t call = {.record.name = "cudaDeviceSynchronize"};
    if (call_begin(&call, CALL_CREATES_CONTEXT)) {
        call.record.device = this_thread()->device;
        call.result = synchronize_device(this_thread()->device);
    }
    return call_end(&call);
}
