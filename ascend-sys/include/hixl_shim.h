/* The flat interface of the C++ shim over hixl::Hixl. No std type crosses it, and no exception.
 *
 * Every status is HIXL's own: 0, 1039xx, 203900, 503900. An exception inside becomes 503900. Strings end with a zero
 * unless a length goes with them; the shim keeps none of them after a call. */
#ifndef ROPEWAY_HIXL_SHIM_H
#define ROPEWAY_HIXL_SHIM_H

#include <stddef.h>
#include <stdint.h>

/* Raised whenever a function or a type below changes. */
static const uint32_t ROPEWAY_HIXL_ABI = 1;

/* What the HIXL underneath has: bits of ropeway_hixl_features. */
static const uint32_t ROPEWAY_HIXL_FEATURE_CAPABILITY = 1;
static const uint32_t ROPEWAY_HIXL_FEATURE_ASYNC_CONNECT = 2;
static const uint32_t ROPEWAY_HIXL_FEATURE_BATCH_STATUS = 4;

/* Kinds of registered memory. */
static const uint32_t ROPEWAY_HIXL_DEVICE = 0;
static const uint32_t ROPEWAY_HIXL_HOST = 1;

/* Directions: from the remote to the local side, and back. */
static const uint32_t ROPEWAY_HIXL_READ = 0;
static const uint32_t ROPEWAY_HIXL_WRITE = 1;

/* States of a transfer. */
static const uint32_t ROPEWAY_HIXL_WAITING = 0;
static const uint32_t ROPEWAY_HIXL_COMPLETED = 1;
static const uint32_t ROPEWAY_HIXL_TIMED_OUT = 2;
static const uint32_t ROPEWAY_HIXL_BROKEN = 3;

/* States of a link that was asked for with ropeway_hixl_connect_async. */
static const uint32_t ROPEWAY_HIXL_NOT_CONNECT = 0;
static const uint32_t ROPEWAY_HIXL_CONNECT_PENDING = 1;
static const uint32_t ROPEWAY_HIXL_CONNECTING = 2;
static const uint32_t ROPEWAY_HIXL_CONNECTED = 3;
static const uint32_t ROPEWAY_HIXL_CONNECT_FAILED = 4;
static const uint32_t ROPEWAY_HIXL_DISCONNECT_PENDING = 5;
static const uint32_t ROPEWAY_HIXL_DISCONNECTING = 6;

/* Features that ropeway_hixl_capability can be asked for. */
static const uint32_t ROPEWAY_HIXL_AUTO_CONNECT = 0;
static const uint32_t ROPEWAY_HIXL_CLIENT_SERVER_COMM = 1;

/* One engine: a hixl::Hixl. */
typedef struct RopewayHixl RopewayHixl;

/* One piece of a transfer. */
typedef struct RopewayHixlDesc {
    uint64_t local;
    uint64_t remote;
    uint64_t len;
} RopewayHixlDesc;

/* Is handed each notification; its pointers are good for the call. */
typedef void (*RopewayHixlNotified)(void *context, const char *name, size_t name_len, const char *message,
    size_t message_len);

#ifdef __cplusplus
extern "C" {
#endif

uint32_t ropeway_hixl_abi(void);
uint32_t ropeway_hixl_features(void);
RopewayHixl *ropeway_hixl_create(void);
void ropeway_hixl_destroy(RopewayHixl *hixl);
uint32_t ropeway_hixl_initialize(RopewayHixl *hixl, const char *local_engine, const char *const *keys,
    const char *const *values, size_t count);
void ropeway_hixl_finalize(RopewayHixl *hixl);
uint32_t ropeway_hixl_register_mem(RopewayHixl *hixl, uint64_t address, uint64_t len, uint32_t kind,
    void **handle);
uint32_t ropeway_hixl_deregister_mem(RopewayHixl *hixl, void *handle);
uint32_t ropeway_hixl_connect(RopewayHixl *hixl, const char *remote, int32_t timeout_ms);
uint32_t ropeway_hixl_disconnect(RopewayHixl *hixl, const char *remote, int32_t timeout_ms);
uint32_t ropeway_hixl_connect_async(RopewayHixl *hixl, const char *remote, int32_t timeout_ms);
uint32_t ropeway_hixl_async_status(RopewayHixl *hixl, const char *remote, uint32_t *status);
uint32_t ropeway_hixl_transfer_sync(RopewayHixl *hixl, const char *remote, uint32_t op,
    const RopewayHixlDesc *descs, size_t count, int32_t timeout_ms);
uint32_t ropeway_hixl_transfer_async(RopewayHixl *hixl, const char *remote, uint32_t op,
    const RopewayHixlDesc *descs, size_t count, void **request);
uint32_t ropeway_hixl_transfer_status(RopewayHixl *hixl, void *request, uint32_t *status);
uint32_t ropeway_hixl_send_notify(RopewayHixl *hixl, const char *remote, const char *name, size_t name_len,
    const char *message, size_t message_len, int32_t timeout_ms);
uint32_t ropeway_hixl_get_notifies(RopewayHixl *hixl, RopewayHixlNotified notified, void *context);
uint32_t ropeway_hixl_capability(uint32_t feature, int32_t *value);

#ifdef __cplusplus
}
#endif

#endif
