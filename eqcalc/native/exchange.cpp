// Features of owned atoms to those of all atoms, and gradients of ghosts home to their owners:
// what a rank of a host does between the layers of a network. See exchange.h.
//
// Without a host there are no ghosts: both are copies then, and anything else is refused.

#include "exchange.h"

#include <cstring>
#include <exception>
#include <string>

#include "library.h"

namespace {

thread_local eqcalc_exchange host{nullptr, nullptr, nullptr};
thread_local std::string failure;

[[noreturn]] void fail(const std::string& reason) {
  failure = reason;
  TORCH_CHECK(false, reason);
}

int kind_of(const at::Tensor& rows) {
  switch (rows.scalar_type()) {
    case at::kFloat: return EQCALC_FLOAT32;
    case at::kDouble: return EQCALC_FLOAT64;
    case at::kLong: return EQCALC_INT64;
    default: TORCH_CHECK(false, "what is exchanged must be float32, float64 or int64");
  }
}

// Let the host work on rows (n_all, ...), and keep the reason where it fails.
void call(const char* name, eqcalc_exchange_call exchange, const at::Tensor& rows,
          int64_t n_owned) {
  const int64_t n_all = rows.size(0);
  if (exchange == nullptr) {
    if (n_all == n_owned) return;
    fail("there are " + std::to_string(n_all - n_owned) + " ghost atoms, and no host has said how "
         "ranks exchange features; call eqcalc_set_exchange in the thread that runs the package");
  }
  int64_t width = 1;
  for (int64_t k = 1; k < rows.dim(); ++k) width *= rows.size(k);
  int done = 0;
  std::string reason;
  try {
    done = exchange(host.context, rows.data_ptr(), n_owned, n_all, width, kind_of(rows));
  } catch (const std::exception& error) {
    reason = error.what();
  } catch (...) {
    reason = "an exception of no known class";
  }
  if (done == 1) return;
  if (reason.empty()) reason = "it returned " + std::to_string(done) + " in place of 1";
  fail(std::string("the host's ") + name + " exchange failed: " + reason);
}

}  // namespace

extern "C" {

void eqcalc_set_exchange(const eqcalc_exchange* exchange) {
  host = exchange == nullptr ? eqcalc_exchange{nullptr, nullptr, nullptr} : *exchange;
}

const char* eqcalc_exchange_error(void) { return failure.c_str(); }

}  // extern "C"

namespace eqcalc {

Tensor exchange(const Tensor& owned_, int64_t n_all) {
  failure.clear();
  TORCH_CHECK(owned_.dim() > 0 && n_all >= owned_.size(0), "of ", n_all, " atoms there cannot be ",
              owned_.dim() > 0 ? owned_.size(0) : 0, " owned ones");
  const auto owned = owned_.contiguous();
  auto sizes = owned.sizes().vec();
  sizes[0] = n_all;
  auto all = owned.new_empty(sizes);
  std::memcpy(all.data_ptr(), owned.data_ptr(), owned.nbytes());
  call("forward", host.forward, all, owned.size(0));
  return all;
}

Tensor exchange_backward(const Tensor& gradient, int64_t n_owned) {
  failure.clear();
  TORCH_CHECK(gradient.dim() > 0 && n_owned >= 0 && n_owned <= gradient.size(0), "of ",
              gradient.dim() > 0 ? gradient.size(0) : 0, " atoms there cannot be ", n_owned,
              " owned ones");
  TORCH_CHECK(gradient.scalar_type() != at::kLong, "integers have no gradient");
  auto rows = gradient.new_empty(gradient.sizes());
  rows.copy_(gradient);
  call("reverse", host.reverse, rows, n_owned);
  return rows.narrow(0, 0, n_owned);
}

}  // namespace eqcalc
