// The simulator's `hixl::Hixl`: turns C++ arguments into those of the flat functions in sim_hixl.h.
//
// Always all of it: the layout decides by its list of symbols which members a release shows.
#define ROPEWAY_HIXL_NEWER
#include "hixl.hpp"

#include "sim_hixl.h"

namespace {

SimHixl *flat(void *impl) { return static_cast<SimHixl *>(impl); }

const char *text(const ge::AscendString &string) {
  const char *held = string.GetString();
  return held == nullptr ? "" : held;
}

const SimHixlDesc *flat(const std::vector<hixl::TransferOpDesc> &descriptors) {
  static_assert(sizeof(SimHixlDesc) == sizeof(hixl::TransferOpDesc), "the same three numbers");
  static_assert(offsetof(SimHixlDesc, remote) == offsetof(hixl::TransferOpDesc, remote_addr), "");
  return reinterpret_cast<const SimHixlDesc *>(descriptors.data());
}

// Only the low half of an enumerator that a caller made up can arrive.
template <class Enum>
std::uint32_t number(Enum value) {
  return static_cast<std::uint32_t>(value);
}

void keep_notify(void *context, const char *name, std::size_t name_len, const char *message, std::size_t message_len) {
  auto &notifies = *static_cast<std::vector<hixl::NotifyDesc> *>(context);
  notifies.push_back({ge::AscendString(name, name_len), ge::AscendString(message, message_len)});
}

void keep_link(void *context, const char *remote, std::uint32_t status) {
  auto &statuses = *static_cast<std::map<ge::AscendString, hixl::AsyncConnectStatus> *>(context);
  statuses[ge::AscendString(remote)] = static_cast<hixl::AsyncConnectStatus>(status);
}

}  // namespace

namespace hixl {

Hixl::Hixl() : impl_(sim_hixl_create()) {}

Hixl::~Hixl() { sim_hixl_destroy(flat(impl_)); }

Status Hixl::Initialize(const ge::AscendString &local_engine, const Options &options) {
  std::vector<const char *> keys;
  std::vector<const char *> values;
  for (const auto &option : options) {
    keys.push_back(text(option.first));
    values.push_back(text(option.second));
  }
  return sim_hixl_initialize(flat(impl_), text(local_engine), keys.data(), values.data(), keys.size());
}

void Hixl::Finalize() { sim_hixl_finalize(flat(impl_)); }

Status Hixl::RegisterMem(const MemDesc &mem, MemType type, MemHandle &handle) {
  return sim_hixl_register_mem(flat(impl_), mem.addr, mem.len, number(type), &handle);
}

Status Hixl::DeregisterMem(MemHandle handle) { return sim_hixl_deregister_mem(flat(impl_), handle); }

Status Hixl::Connect(const ge::AscendString &remote_engine, std::int32_t timeout_ms) {
  return sim_hixl_connect(flat(impl_), text(remote_engine), timeout_ms);
}

Status Hixl::Disconnect(const ge::AscendString &remote_engine, std::int32_t timeout_ms) {
  return sim_hixl_disconnect(flat(impl_), text(remote_engine), timeout_ms);
}

Status Hixl::TransferSync(const ge::AscendString &remote_engine, TransferOp op,
                          const std::vector<TransferOpDesc> &descriptors, std::int32_t timeout_ms) {
  return sim_hixl_transfer_sync(flat(impl_), text(remote_engine), number(op), flat(descriptors), descriptors.size(),
                                timeout_ms);
}

Status Hixl::TransferAsync(const ge::AscendString &remote_engine, TransferOp op,
                           const std::vector<TransferOpDesc> &descriptors, const TransferArgs &args,
                           TransferReq &request) {
  return sim_hixl_transfer_async(flat(impl_), text(remote_engine), number(op), flat(descriptors), descriptors.size(),
                                 args.user_data, &request);
}

Status Hixl::GetTransferStatus(const TransferReq &request, TransferStatus &status) {
  std::uint32_t answer = SIM_HIXL_FAILED;
  const Status result = sim_hixl_transfer_status(flat(impl_), request, &answer);
  status = static_cast<TransferStatus>(answer);
  return result;
}

Status Hixl::SendNotify(const ge::AscendString &remote_engine, const NotifyDesc &notify, std::int32_t timeout_ms) {
  return sim_hixl_send_notify(flat(impl_), text(remote_engine), text(notify.name), notify.name.GetLength(),
                              text(notify.notify_msg), notify.notify_msg.GetLength(), timeout_ms);
}

Status Hixl::GetNotifies(std::vector<NotifyDesc> &notifies) {
  notifies.clear();
  return sim_hixl_get_notifies(flat(impl_), keep_notify, &notifies);
}

Status Hixl::GetCapability(FeatureType feature, std::int32_t &value) {
  return sim_hixl_capability(number(feature), &value);
}

Status Hixl::ConnectAsync(const ge::AscendString &remote_engine, std::int32_t timeout_ms) {
  return sim_hixl_connect_async(flat(impl_), text(remote_engine), timeout_ms);
}

Status Hixl::DisconnectAsync(const ge::AscendString &remote_engine, std::int32_t timeout_ms) {
  return sim_hixl_disconnect_async(flat(impl_), text(remote_engine), timeout_ms);
}

Status Hixl::GetAsyncConnectStatus(const ge::AscendString &remote_engine, AsyncConnectStatus &status) {
  std::uint32_t answer = 0;
  const Status result = sim_hixl_async_status(flat(impl_), text(remote_engine), &answer);
  status = static_cast<AsyncConnectStatus>(answer);
  return result;
}

Status Hixl::GetAsyncConnectStatus(std::map<ge::AscendString, AsyncConnectStatus> &statuses) {
  statuses.clear();
  return sim_hixl_async_statuses(flat(impl_), keep_link, &statuses);
}

Status Hixl::GetTransferStatus(const GetTransferStatusArgs &args, std::vector<TransferResult> &results) {
  std::vector<SimHixlResult> answers(sim_hixl_transfer_open(flat(impl_)));
  std::size_t count = 0;
  const Status result = sim_hixl_transfer_results(flat(impl_), args.max_query_count, args.skip_waiting ? 1 : 0,
                                                  answers.data(), answers.size(), &count);
  results.clear();
  for (std::size_t at = 0; at < count; ++at) {
    TransferResult answer{};
    answer.req = answers[at].request;
    answer.user_data = answers[at].user_data;
    answer.status = static_cast<TransferStatus>(answers[at].status);
    results.push_back(answer);
  }
  return result;
}

}  // namespace hixl
