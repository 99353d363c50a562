// A HIXL with the oldest members only, that does nothing, throws when told to, and counts what is allocated.
#define ROPEWAY_HIXL_NEWER
#include "../../../crates/ascend-sim/cxx/ascend_string.cpp"

#include <cstdlib>
#include <new>
#include <stdexcept>

namespace {

int to_throw = 0;
std::size_t allocations = 0;

hixl::Status done() {
  switch (to_throw) {
    case 1:
      throw std::runtime_error("told to");
    case 2:
      throw 42;
    default:
      return 0;
  }
}

}  // namespace

extern "C" void fake_throw(int kind) { to_throw = kind; }
extern "C" std::size_t fake_allocations(void) { return allocations; }

// Found before libstdc++'s own by what is loaded after this library.
void *operator new(std::size_t size) {
  ++allocations;
  if (void *memory = std::malloc(size)) {
    return memory;
  }
  throw std::bad_alloc();
}
void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, std::size_t) noexcept { std::free(memory); }

namespace hixl {

using ge::AscendString;

Hixl::Hixl() { done(); }
Hixl::~Hixl() = default;
Status Hixl::Initialize(const AscendString &, const Options &) { return done(); }
void Hixl::Finalize() { done(); }
Status Hixl::RegisterMem(const MemDesc &, MemType, MemHandle &) { return done(); }
Status Hixl::DeregisterMem(MemHandle) { return done(); }
Status Hixl::Connect(const AscendString &, std::int32_t) { return done(); }
Status Hixl::Disconnect(const AscendString &, std::int32_t) { return done(); }
Status Hixl::TransferSync(const AscendString &, TransferOp, const std::vector<TransferOpDesc> &, std::int32_t) {
  return done();
}
Status Hixl::TransferAsync(const AscendString &, TransferOp, const std::vector<TransferOpDesc> &, const TransferArgs &,
                           TransferReq &) {
  return done();
}
// Leaves the answer as it found it.
Status Hixl::GetTransferStatus(const TransferReq &, TransferStatus &) { return done(); }
Status Hixl::SendNotify(const AscendString &, const NotifyDesc &, std::int32_t) { return done(); }
Status Hixl::GetNotifies(std::vector<NotifyDesc> &) { return done(); }

}  // namespace hixl
