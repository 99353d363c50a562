// Our own declaration of the part of CANN's C++ interface that the shim calls: `ge::AscendString` (libmetadef) and
// `hixl::Hixl` (libcann_hixl). What must be right is what the linker and the calling convention see: names, argument
// types, sizes and offsets. shim.cpp asserts sizes; tests compare the mangled names with the known ones.
#ifndef ROPEWAY_HIXL_HPP
#define ROPEWAY_HIXL_HPP

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

// Members that came after 8.5.0. The shim declares them weak: null where the loaded library has none.
#ifndef ROPEWAY_HIXL_NEWER
#define ROPEWAY_HIXL_NEWER __attribute__((weak))
#endif

// All of it lives in other libraries, so nothing here may be hidden.
#pragma GCC visibility push(default)

namespace ge {

class Text;

// One shared text. CANN's binaries hold a std::string of the old ABI in it; here it stays unnamed, and copies and ends
// go through the shared count alone, which is the same under both.
class AscendString {
 public:
  AscendString() = default;
  AscendString(const char *text);
  AscendString(const char *text, std::size_t length);
  const char *GetString() const;
  std::size_t GetLength() const;
  bool operator<(const AscendString &other) const;

 private:
  std::shared_ptr<Text> text_;
};

}  // namespace ge

namespace hixl {

using Status = std::uint32_t;
using MemHandle = void *;
using TransferReq = void *;
using Options = std::map<ge::AscendString, ge::AscendString>;

enum MemType : int {};
enum TransferOp : int {};
enum class TransferStatus : int {};
enum class AsyncConnectStatus : int {};
enum FeatureType : int {};

struct MemDesc {
  std::uintptr_t addr;
  std::size_t len;
  std::uint8_t reserved[128];
};

struct TransferOpDesc {
  std::uintptr_t local_addr;
  std::uintptr_t remote_addr;
  std::size_t len;
};

struct TransferArgs {
  void *user_data;
  std::uint8_t reserved[120];
};

struct NotifyDesc {
  ge::AscendString name;
  ge::AscendString notify_msg;
};

struct GetTransferStatusArgs {
  std::uint32_t max_query_count;
  bool skip_waiting;
  std::uint8_t reserved[123];
};

struct TransferResult {
  TransferReq req;
  void *user_data;
  TransferStatus status;
  std::uint8_t reserved[108];
};

class Hixl {
 public:
  Hixl();
  ~Hixl();
  Hixl(const Hixl &) = delete;
  Hixl &operator=(const Hixl &) = delete;

  Status Initialize(const ge::AscendString &local_engine, const Options &options);
  void Finalize();
  Status RegisterMem(const MemDesc &mem, MemType type, MemHandle &handle);
  Status DeregisterMem(MemHandle handle);
  Status Connect(const ge::AscendString &remote_engine, std::int32_t timeout_ms);
  Status Disconnect(const ge::AscendString &remote_engine, std::int32_t timeout_ms);
  Status TransferSync(const ge::AscendString &remote_engine, TransferOp op,
                      const std::vector<TransferOpDesc> &descriptors, std::int32_t timeout_ms);
  Status TransferAsync(const ge::AscendString &remote_engine, TransferOp op,
                       const std::vector<TransferOpDesc> &descriptors, const TransferArgs &args, TransferReq &request);
  Status GetTransferStatus(const TransferReq &request, TransferStatus &status);
  Status SendNotify(const ge::AscendString &remote_engine, const NotifyDesc &notify, std::int32_t timeout_ms);
  Status GetNotifies(std::vector<NotifyDesc> &notifies);

  // Since 9.1.0.
  ROPEWAY_HIXL_NEWER static Status GetCapability(FeatureType feature, std::int32_t &value);
  ROPEWAY_HIXL_NEWER Status ConnectAsync(const ge::AscendString &remote_engine, std::int32_t timeout_ms);
  ROPEWAY_HIXL_NEWER Status DisconnectAsync(const ge::AscendString &remote_engine, std::int32_t timeout_ms);
  ROPEWAY_HIXL_NEWER Status GetAsyncConnectStatus(const ge::AscendString &remote_engine, AsyncConnectStatus &status);
  ROPEWAY_HIXL_NEWER Status GetAsyncConnectStatus(std::map<ge::AscendString, AsyncConnectStatus> &statuses);
  ROPEWAY_HIXL_NEWER Status GetTransferStatus(const GetTransferStatusArgs &args, std::vector<TransferResult> &results);

 private:
  void *impl_;
};

}  // namespace hixl

#pragma GCC visibility pop

#endif
