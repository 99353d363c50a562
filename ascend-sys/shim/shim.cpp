// The flat C interface of ../include/hixl_shim.h over `hixl::Hixl`.
//
// Built into a shared object of its own that leaves HIXL's symbols open: they are bound when it is loaded, after HIXL's
// own libraries. With ROPEWAY_CANN_HEADERS it is compiled against an installed CANN's headers instead of our declaration,
// as a check only; ROPEWAY_CANN_BEFORE_9_1 then leaves out what those headers do not know.
#include "../include/hixl_shim.h"

#include <cstddef>
#include <cstring>
#include <map>
#include <new>
#include <type_traits>
#include <vector>

#ifdef ROPEWAY_CANN_HEADERS
#include "hixl/hixl.h"
#else
#include "hixl.hpp"
#endif

#define ROPEWAY_API extern "C" __attribute__((visibility("default")))

using ge::AscendString;

// Where it exists, libstdc++'s reference counts ask this variable of glibc 2.32 whether the process has one thread only, and
// then are not atomic. Ours answers for the shim alone, and says no: so it loads on older hosts too.
extern "C" {
extern char __libc_single_threaded;
char __libc_single_threaded = 0;
}

// Of whichever declaration was included: what the library on the other side takes for granted.
static_assert(sizeof(AscendString) == 16, "one shared pointer");
static_assert(sizeof(hixl::Hixl) == 8, "one unique pointer");
static_assert(sizeof(hixl::MemDesc) == 144 && offsetof(hixl::MemDesc, len) == 8, "");
static_assert(sizeof(hixl::TransferOpDesc) == 24 && offsetof(hixl::TransferOpDesc, remote_addr) == 8, "");
static_assert(sizeof(hixl::TransferArgs) == 128 && sizeof(hixl::NotifyDesc) == 32, "");
static_assert(sizeof(hixl::MemType) == 4 && sizeof(hixl::TransferOp) == 4, "");
static_assert(sizeof(hixl::TransferStatus) == 4, "");
#ifndef ROPEWAY_CANN_BEFORE_9_1
static_assert(sizeof(hixl::GetTransferStatusArgs) == 128 && sizeof(hixl::TransferResult) == 128, "");
static_assert(offsetof(hixl::GetTransferStatusArgs, skip_waiting) == 4, "");
static_assert(offsetof(hixl::TransferResult, user_data) == 8 && offsetof(hixl::TransferResult, status) == 16, "");
static_assert(sizeof(hixl::AsyncConnectStatus) == 4 && sizeof(hixl::FeatureType) == 4, "");
#endif

// What the shim itself answers: an argument that cannot be, a member that this HIXL has not, an exception.
constexpr std::uint32_t kParamInvalid = 103900;
constexpr std::uint32_t kUnsupported = 103905;
constexpr std::uint32_t kFailed = 503900;

// An engine is HIXL's object itself; the name is for C only.
static hixl::Hixl &cxx(RopewayHixl *engine) { return *reinterpret_cast<hixl::Hixl *>(engine); }

namespace {

// Descriptors that a thread keeps room for between calls (1.5 MiB); more is given back after the call.
constexpr std::size_t kRoomKept = 65536;

// What a posting thread reuses, so that a post allocates nothing, however many descriptors it has.
struct Scratch {
  std::vector<hixl::TransferOpDesc> descriptors;
  AscendString remote;

  const AscendString &named(const char *name) {
    const char *held = remote.GetString();
    if (held == nullptr || std::strcmp(held, name) != 0) {
      remote = AscendString(name);
    }
    return remote;
  }

  const std::vector<hixl::TransferOpDesc> &filled(const RopewayHixlDesc *from, std::size_t count) {
    static_assert(sizeof(hixl::TransferOpDesc) == sizeof(RopewayHixlDesc), "copied as they are");
    static_assert(offsetof(hixl::TransferOpDesc, local_addr) == offsetof(RopewayHixlDesc, local), "");
    static_assert(offsetof(hixl::TransferOpDesc, remote_addr) == offsetof(RopewayHixlDesc, remote), "");
    static_assert(offsetof(hixl::TransferOpDesc, len) == offsetof(RopewayHixlDesc, len), "");
    static_assert(std::is_trivially_copyable<hixl::TransferOpDesc>::value, "");
    descriptors.resize(count);
    if (count != 0) {
      std::memcpy(static_cast<void *>(descriptors.data()), from, count * sizeof(RopewayHixlDesc));
    }
    return descriptors;
  }

  void trim() {
    if (descriptors.capacity() > kRoomKept) {
      std::vector<hixl::TransferOpDesc>().swap(descriptors);
    }
  }
};

Scratch &scratch() {
  thread_local Scratch mine;
  return mine;
}

// Runs `call` and turns whatever it throws into a status.
template <class Call>
std::uint32_t caught(Call call) noexcept {
  try {
    return call();
  } catch (...) {
    return kFailed;
  }
}

template <class Call>
std::uint32_t to_remote(RopewayHixl *engine, const char *remote, Call call) noexcept {
  if (engine == nullptr || remote == nullptr) {
    return kParamInvalid;
  }
  return caught([&] { return call(cxx(engine), scratch().named(remote)); });
}

#if defined(ROPEWAY_CANN_BEFORE_9_1)
constexpr bool kCapability = false, kAsyncConnect = false, kBatchStatus = false;
#elif defined(ROPEWAY_CANN_HEADERS)
constexpr bool kCapability = true, kAsyncConnect = true, kBatchStatus = true;
#else
// Null where the loaded library lacks the weak member. Asked through volatile, since a compiler may take the address of a
// member to be never null.
template <class Member>
bool there(Member member) {
  Member volatile asked = member;
  Member now = asked;
  return now != nullptr;
}

using BatchStatus = hixl::Status (hixl::Hixl::*)(const hixl::GetTransferStatusArgs &,
                                                 std::vector<hixl::TransferResult> &);
using AsyncStatus = hixl::Status (hixl::Hixl::*)(const AscendString &, hixl::AsyncConnectStatus &);

const bool kCapability = there(&hixl::Hixl::GetCapability);
const bool kAsyncConnect = there(&hixl::Hixl::ConnectAsync) && there(&hixl::Hixl::DisconnectAsync) &&
                           there(static_cast<AsyncStatus>(&hixl::Hixl::GetAsyncConnectStatus));
const bool kBatchStatus = there(static_cast<BatchStatus>(&hixl::Hixl::GetTransferStatus));
#endif

}  // namespace

ROPEWAY_API std::uint32_t ropeway_hixl_abi(void) { return ROPEWAY_HIXL_ABI; }

ROPEWAY_API std::uint32_t ropeway_hixl_features(void) {
  return (kCapability ? ROPEWAY_HIXL_FEATURE_CAPABILITY : 0) |
         (kAsyncConnect ? ROPEWAY_HIXL_FEATURE_ASYNC_CONNECT : 0) |
         (kBatchStatus ? ROPEWAY_HIXL_FEATURE_BATCH_STATUS : 0);
}

ROPEWAY_API RopewayHixl *ropeway_hixl_create(void) {
  hixl::Hixl *engine = nullptr;
  caught([&] {
    engine = new hixl::Hixl();
    return 0;
  });
  return reinterpret_cast<RopewayHixl *>(engine);
}

ROPEWAY_API void ropeway_hixl_destroy(RopewayHixl *engine) {
  caught([&] {
    delete reinterpret_cast<hixl::Hixl *>(engine);
    return 0;
  });
}

ROPEWAY_API std::uint32_t ropeway_hixl_initialize(RopewayHixl *engine, const char *local_engine,
                                                  const char *const *keys, const char *const *values,
                                                  std::size_t count) {
  const bool lists = count == 0 || (keys != nullptr && values != nullptr);
  if (engine == nullptr || local_engine == nullptr || !lists) {
    return kParamInvalid;
  }
  return caught([&] {
    std::map<AscendString, AscendString> options;
    for (std::size_t at = 0; at < count; ++at) {
      options[AscendString(keys[at])] = AscendString(values[at]);
    }
    return cxx(engine).Initialize(AscendString(local_engine), options);
  });
}

ROPEWAY_API void ropeway_hixl_finalize(RopewayHixl *engine) {
  caught([&] {
    if (engine != nullptr) {
      cxx(engine).Finalize();
    }
    return 0;
  });
}

ROPEWAY_API std::uint32_t ropeway_hixl_register_mem(RopewayHixl *engine, std::uint64_t address, std::uint64_t length,
                                                    std::uint32_t kind, void **handle) {
  if (engine == nullptr || handle == nullptr) {
    return kParamInvalid;
  }
  return caught([&] {
    hixl::MemDesc range{};
    range.addr = address;
    range.len = length;
    return cxx(engine).RegisterMem(range, static_cast<hixl::MemType>(kind), *handle);
  });
}

ROPEWAY_API std::uint32_t ropeway_hixl_deregister_mem(RopewayHixl *engine, void *handle) {
  if (engine == nullptr) {
    return kParamInvalid;
  }
  return caught([&] { return cxx(engine).DeregisterMem(handle); });
}

ROPEWAY_API std::uint32_t ropeway_hixl_connect(RopewayHixl *engine, const char *remote, std::int32_t timeout_ms) {
  return to_remote(engine, remote, [&](hixl::Hixl &hixl, const AscendString &name) {
    return hixl.Connect(name, timeout_ms);
  });
}

ROPEWAY_API std::uint32_t ropeway_hixl_disconnect(RopewayHixl *engine, const char *remote, std::int32_t timeout_ms) {
  return to_remote(engine, remote, [&](hixl::Hixl &hixl, const AscendString &name) {
    return hixl.Disconnect(name, timeout_ms);
  });
}

ROPEWAY_API std::uint32_t ropeway_hixl_transfer_sync(RopewayHixl *engine, const char *remote, std::uint32_t op,
                                                     const RopewayHixlDesc *descriptors, std::size_t count,
                                                     std::int32_t timeout_ms) {
  if (count != 0 && descriptors == nullptr) {
    return kParamInvalid;
  }
  return to_remote(engine, remote, [&](hixl::Hixl &hixl, const AscendString &name) {
    Scratch &mine = scratch();
    const auto status =
        hixl.TransferSync(name, static_cast<hixl::TransferOp>(op), mine.filled(descriptors, count), timeout_ms);
    mine.trim();
    return status;
  });
}

ROPEWAY_API std::uint32_t ropeway_hixl_transfer_async(RopewayHixl *engine, const char *remote, std::uint32_t op,
                                                      const RopewayHixlDesc *descriptors, std::size_t count,
                                                      void **request) {
  if (request == nullptr || (count != 0 && descriptors == nullptr)) {
    return kParamInvalid;
  }
  return to_remote(engine, remote, [&](hixl::Hixl &hixl, const AscendString &name) {
    Scratch &mine = scratch();
    const hixl::TransferArgs nothing{};
    const auto status = hixl.TransferAsync(name, static_cast<hixl::TransferOp>(op), mine.filled(descriptors, count),
                                           nothing, *request);
    mine.trim();
    return status;
  });
}

ROPEWAY_API std::uint32_t ropeway_hixl_transfer_status(RopewayHixl *engine, void *request, std::uint32_t *status) {
  if (engine == nullptr || status == nullptr) {
    return kParamInvalid;
  }
  // An answer that is never given reads as failed, never as waiting.
  auto answer = static_cast<hixl::TransferStatus>(3);
  const std::uint32_t result = caught([&] { return cxx(engine).GetTransferStatus(request, answer); });
  *status = static_cast<std::uint32_t>(answer);
  return result;
}

ROPEWAY_API std::uint32_t ropeway_hixl_send_notify(RopewayHixl *engine, const char *remote, const char *name,
                                                   std::size_t name_len, const char *message, std::size_t message_len,
                                                   std::int32_t timeout_ms) {
  if (name == nullptr || message == nullptr) {
    return kParamInvalid;
  }
  return to_remote(engine, remote, [&](hixl::Hixl &hixl, const AscendString &to) {
    hixl::NotifyDesc notify;
    notify.name = AscendString(name, name_len);
    notify.notify_msg = AscendString(message, message_len);
    return hixl.SendNotify(to, notify, timeout_ms);
  });
}

ROPEWAY_API std::uint32_t ropeway_hixl_get_notifies(RopewayHixl *engine, RopewayHixlNotified each, void *context) {
  if (engine == nullptr || each == nullptr) {
    return kParamInvalid;
  }
  return caught([&] {
    std::vector<hixl::NotifyDesc> notifies;
    const auto status = cxx(engine).GetNotifies(notifies);
    // Those that came along with an error were taken off the library's queue all the same.
    for (const hixl::NotifyDesc &notify : notifies) {
      const char *name = notify.name.GetString();
      const char *message = notify.notify_msg.GetString();
      each(context, name == nullptr ? "" : name, name == nullptr ? 0 : notify.name.GetLength(),
           message == nullptr ? "" : message, message == nullptr ? 0 : notify.notify_msg.GetLength());
    }
    return status;
  });
}

// Members that came with 9.1.0.

ROPEWAY_API std::uint32_t ropeway_hixl_capability(std::uint32_t feature, std::int32_t *value) {
  if (value == nullptr) {
    return kParamInvalid;
  }
#ifndef ROPEWAY_CANN_BEFORE_9_1
  if (kCapability) {
    return caught([&] { return hixl::Hixl::GetCapability(static_cast<hixl::FeatureType>(feature), *value); });
  }
#endif
  (void)feature;
  return kUnsupported;
}

ROPEWAY_API std::uint32_t ropeway_hixl_connect_async(RopewayHixl *engine, const char *remote,
                                                     std::int32_t timeout_ms) {
#ifndef ROPEWAY_CANN_BEFORE_9_1
  if (kAsyncConnect) {
    return to_remote(engine, remote, [&](hixl::Hixl &hixl, const AscendString &name) {
      return hixl.ConnectAsync(name, timeout_ms);
    });
  }
#endif
  (void)engine, (void)remote, (void)timeout_ms;
  return kUnsupported;
}

ROPEWAY_API std::uint32_t ropeway_hixl_async_status(RopewayHixl *engine, const char *remote, std::uint32_t *status) {
  if (status == nullptr) {
    return kParamInvalid;
  }
#ifndef ROPEWAY_CANN_BEFORE_9_1
  if (kAsyncConnect) {
    return to_remote(engine, remote, [&](hixl::Hixl &hixl, const AscendString &name) {
      auto answer = static_cast<hixl::AsyncConnectStatus>(0);
      const auto result = hixl.GetAsyncConnectStatus(name, answer);
      *status = static_cast<std::uint32_t>(answer);
      return result;
    });
  }
#endif
  (void)engine, (void)remote;
  return kUnsupported;
}
