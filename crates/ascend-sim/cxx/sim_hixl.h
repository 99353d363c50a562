/* What the simulator's C++ class `hixl::Hixl` (hixl.cpp beside this file) is made of: flat C functions that the crate
 * exports. Nothing here throws, and no function keeps a pointer that it was given but for `request` tokens.
 *
 * Status numbers are HIXL's: 0, 103900 parameter, 103901 timeout, 103902 not connected, 103903 connected already,
 * 103904 notify failed, 103905 unsupported, 203900 resources exhausted, 503900 failed. Which functions a program sees is
 * decided by the layout, which leaves out the members that a release has not; all of these are always there.
 */
#ifndef ROPEWAY_ASCEND_SIM_HIXL_H
#define ROPEWAY_ASCEND_SIM_HIXL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One engine. */
typedef struct SimHixl SimHixl;

/* One range to move: the layout of `hixl::TransferOpDesc`. */
typedef struct SimHixlDesc {
    uint64_t local;
    uint64_t remote;
    uint64_t len;
} SimHixlDesc;

/* One answer of sim_hixl_transfer_results. */
typedef struct SimHixlResult {
    void *request;
    void *user_data;
    uint32_t status;
} SimHixlResult;

enum { SIM_HIXL_READ = 0, SIM_HIXL_WRITE = 1 };
enum { SIM_HIXL_DEVICE = 0, SIM_HIXL_HOST = 1 };
enum { SIM_HIXL_WAITING = 0, SIM_HIXL_COMPLETED = 1, SIM_HIXL_FAILED = 3 };

/* Called once for each notify, in order of arrival; the strings live for the call and end in no NUL. */
typedef void (*SimHixlNotify)(void *context, const char *name, size_t name_len, const char *message, size_t message_len);

/* Called once for each remote engine that has an asynchronous connection; `remote` ends in NUL and lives for the call. */
typedef void (*SimHixlLink)(void *context, const char *remote, uint32_t status);

/* Never NULL but when memory is out. */
SimHixl *sim_hixl_create(void);
/* Finalizes first when the caller has not. NULL is let through. */
void sim_hixl_destroy(SimHixl *engine);

/* `keys` and `values` hold `count` strings each, in the order of a map: sorted, no key twice. */
uint32_t sim_hixl_initialize(SimHixl *engine, const char *local_engine, const char *const *keys,
                             const char *const *values, size_t count);
void sim_hixl_finalize(SimHixl *engine);

uint32_t sim_hixl_register_mem(SimHixl *engine, uint64_t address, uint64_t length, uint32_t kind, void **handle);
uint32_t sim_hixl_deregister_mem(SimHixl *engine, void *handle);

uint32_t sim_hixl_connect(SimHixl *engine, const char *remote, int32_t timeout_ms);
uint32_t sim_hixl_disconnect(SimHixl *engine, const char *remote, int32_t timeout_ms);
uint32_t sim_hixl_connect_async(SimHixl *engine, const char *remote, int32_t timeout_ms);
uint32_t sim_hixl_disconnect_async(SimHixl *engine, const char *remote, int32_t timeout_ms);
/* 0 not connected, 1 pending, 2 connecting, 3 connected, 4 failed, 5 disconnect pending, 6 disconnecting. */
uint32_t sim_hixl_async_status(SimHixl *engine, const char *remote, uint32_t *status);
uint32_t sim_hixl_async_statuses(SimHixl *engine, SimHixlLink each, void *context);

/* `descriptors` need not outlive either call. */
uint32_t sim_hixl_transfer_sync(SimHixl *engine, const char *remote, uint32_t op, const SimHixlDesc *descriptors,
                                size_t count, int32_t timeout_ms);
uint32_t sim_hixl_transfer_async(SimHixl *engine, const char *remote, uint32_t op, const SimHixlDesc *descriptors,
                                 size_t count, void *user_data, void **request);
/* Reports an end once: asked again it answers 103900 and sets FAILED. */
uint32_t sim_hixl_transfer_status(SimHixl *engine, void *request, uint32_t *status);
/* Fills at most `room` results, at most `most` when `most` is not 0; `skip_waiting` leaves out those still waiting.
 * Each end is reported once, as above. `count` is what was filled. */
uint32_t sim_hixl_transfer_results(SimHixl *engine, uint32_t most, uint32_t skip_waiting, SimHixlResult *results,
                                   size_t room, size_t *count);
/* Requests that sim_hixl_transfer_results could report now: how much room to bring. */
size_t sim_hixl_transfer_open(SimHixl *engine);

uint32_t sim_hixl_send_notify(SimHixl *engine, const char *remote, const char *name, size_t name_len,
                              const char *message, size_t message_len, int32_t timeout_ms);
/* Takes all notifies that have arrived. */
uint32_t sim_hixl_get_notifies(SimHixl *engine, SimHixlNotify each, void *context);

/* 0 links on demand, 1 client/server engine; 0 or 1 comes out. */
uint32_t sim_hixl_capability(uint32_t feature, int32_t *value);

#ifdef __cplusplus
}
#endif

#endif
