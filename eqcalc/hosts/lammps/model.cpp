#include "model.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/script.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace eqcalc_lammps {

namespace {

constexpr int64_t kFewest = 2;  // atoms and edges: the compiler takes sizes 0 and 1 for constants

// LAMMPS may run within Python: what that has set for networks of its own, such as torch.no_grad()
// or autocast, changes nothing here while this lives.
struct OwnModes {
  const c10::InferenceMode no_inference{false};
  const at::AutoGradMode gradients{true};  // TorchScript differentiates inside
  const c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

// What torch.jit.load leaves in the file's precision, see eqcalc/engines/torchscript.py.
bool stays_double(const std::string& name) {
  const auto last = name.substr(name.rfind('.') + 1);
  return last == "reference_energies" || last == "scale";
}

void cast(torch::jit::Module& module, at::ScalarType precision) {
  const auto convert = [&](const auto& entries) {
    for (const auto& entry : entries)
      if (entry.value.is_floating_point() && !stays_double(entry.name)) {
        auto tensor = entry.value;
        tensor.set_data(tensor.to(precision));
      }
  };
  convert(module.named_parameters());
  convert(module.named_buffers());
}

// Let what a step frees serve the next; eqcalc/host_memory.py does it for Python, and says why.
void keep_freed_memory() {
#ifdef __GLIBC__
  for (const char* wish : {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_"})
    if (std::getenv(wish) != nullptr) return;
  const char* tunables = std::getenv("GLIBC_TUNABLES");
  if (tunables != nullptr && std::string(tunables).find("glibc.malloc") != std::string::npos)
    return;
  mallopt(M_MMAP_THRESHOLD, 1 << 25);
  mallopt(M_TRIM_THRESHOLD, 2147483647);
#endif
}

}  // namespace

void Graph::clear() {
  n_owned = n_ghosts = 0;
  numbers.clear();
  senders.clear();
  receivers.clear();
  vectors.clear();
}

struct Model::Parts {
  // One for all members; where features are exchanged, one of each.
  std::vector<std::unique_ptr<torch::inductor::AOTIModelPackageLoader>> packages;
  std::vector<torch::jit::Module> programs;  // of each member, where nothing is compiled
  at::ScalarType precision = at::kDouble;
  double reach = 0.0;  // Å; beyond every cutoff
  int64_t dummy = 0;   // an atomic number that the model knows
  int64_t n_members = 1;
  bool exchanges = false;
  eqcalc_exchange host{nullptr, nullptr, nullptr};
  void (*set_exchange)(const eqcalc_exchange*) = nullptr;
  const char* (*exchange_error)() = nullptr;

  std::vector<at::Tensor> run(torch::inductor::AOTIModelPackageLoader& package,
                              std::vector<at::Tensor> tensors);
};

std::vector<at::Tensor> Model::Parts::run(torch::inductor::AOTIModelPackageLoader& package,
                                          std::vector<at::Tensor> tensors) {
  if (!exchanges) return package.run(tensors);
  set_exchange(&host);
  try {
    auto found = package.run(tensors);
    set_exchange(nullptr);
    return found;
  } catch (...) {
    set_exchange(nullptr);
    const std::string why = exchange_error();
    if (!why.empty()) throw std::runtime_error(why);
    throw;
  }
}

Model::Model(const Ticket& ticket) : parts_(std::make_unique<Parts>()) {
  const OwnModes modes;
  keep_freed_memory();
  parts_->precision = ticket.text("dtype") == "float32" ? at::kFloat : at::kDouble;
  parts_->reach = 2.0 * ticket.number("cutoff");
  parts_->dummy = std::stoll(ticket.text("numbers"));  // the first of them
  parts_->n_members = static_cast<int64_t>(ticket.number("members"));
  // The operators that compiled packages call.
  void* handle = nullptr;
  for (const auto& library : ticket.texts("library"))
    if ((handle = dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL)) == nullptr)
      throw std::runtime_error(std::string("cannot load eqcalc's C++ library: ") + dlerror());
  parts_->exchanges = ticket.text("ranks") == "exchange";
  if (parts_->exchanges) {
    const auto find = [&](const char* name) {
      void* found = handle == nullptr ? nullptr : dlsym(handle, name);
      if (found == nullptr) throw std::runtime_error("eqcalc's C++ library has no exchange");
      return found;
    };
    parts_->set_exchange =
        reinterpret_cast<void (*)(const eqcalc_exchange*)>(find("eqcalc_set_exchange"));
    parts_->exchange_error = reinterpret_cast<const char* (*)()>(find("eqcalc_exchange_error"));
  }
  if (ticket.text("engine") == "inductor") {
    for (const auto& path : ticket.texts("package"))
      parts_->packages.push_back(
          std::make_unique<torch::inductor::AOTIModelPackageLoader>(path, "model"));
  } else {
    for (const auto& path : ticket.texts("program")) {
      auto program = torch::jit::load(path, at::kCPU);
      program.eval();
      cast(program, parts_->precision);
      parts_->programs.push_back(std::move(program));
    }
  }
}

Model::~Model() = default;

void Model::set_threads(int n_threads) { at::set_num_threads(n_threads); }

bool Model::exchanges() const { return parts_->exchanges; }

void Model::exchange_by(const eqcalc_exchange& host) { parts_->host = host; }

namespace {

// An exchange of a rank without neighbours, which notes how wide it was.
int note_width(void* context, void*, int64_t, int64_t, int64_t width, int kind) {
  auto* widest = static_cast<int64_t*>(context);
  *widest = std::max(*widest, width * (kind == EQCALC_FLOAT32 ? 4 : 8));
  return 1;
}

}  // namespace

int64_t Model::widest_exchange() {
  int64_t widest = 0;
  const auto host = parts_->host;
  parts_->host = {&widest, &note_width, &note_width};
  Answer answer;
  call(Graph{}, answer);
  parts_->host = host;
  return widest;
}

void Model::call(const Graph& graph, Answer& answer) {
  const OwnModes modes;
  const int64_t n_atoms = graph.numbers.size(), n_edges = graph.senders.size();
  const bool is_compiled = !parts_->packages.empty();
  const bool is_small = is_compiled && (n_atoms < kFewest || n_edges < kFewest);
  const int64_t atoms = n_atoms + 2 * is_small, edges = n_edges + 2 * is_small;

  auto numbers = at::empty({atoms}, at::kLong), index = at::empty({2, edges}, at::kLong);
  auto vectors = at::empty({edges, 3}, at::kDouble);
  auto* z = numbers.data_ptr<int64_t>();
  auto *senders = index.data_ptr<int64_t>(), *receivers = senders + edges;
  auto* r = vectors.data_ptr<double>();
  std::copy(graph.numbers.begin(), graph.numbers.end(), z);
  std::copy(graph.senders.begin(), graph.senders.end(), senders);
  std::copy(graph.receivers.begin(), graph.receivers.end(), receivers);
  std::copy(graph.vectors.begin(), graph.vectors.end(), r);
  if (is_small) {  // two atoms more, and two edges between them that are longer than the cutoff
    if (parts_->exchanges)  // they stand before the ghosts
      for (int64_t e = 0; e < n_edges; ++e)
        if (senders[e] >= n_atoms) senders[e] += 2;
    for (int64_t k = 0; k < 2; ++k) {
      z[n_atoms + k] = parts_->dummy;
      senders[n_edges + k] = n_atoms + 1 - k;
      receivers[n_edges + k] = n_atoms + k;
      for (int64_t x = 0; x < 3; ++x) r[3 * (n_edges + k) + x] = x == 0 ? parts_->reach : 0.0;
    }
  }
  vectors = vectors.to(parts_->precision);

  at::Tensor energies, gradients;
  if (is_compiled) {
    auto weights = at::zeros({atoms}, at::kDouble);
    weights.narrow(0, 0, graph.n_owned).fill_(1.0);
    std::vector<at::Tensor> tensors{numbers, vectors, index, weights};
    if (parts_->exchanges) tensors.push_back(at::zeros({atoms + graph.n_ghosts}, at::kLong));
    std::vector<at::Tensor> each_energies, each_gradients;
    for (auto& package : parts_->packages) {
      const auto found = parts_->run(*package, tensors);
      each_energies.push_back(found.at(0));
      each_gradients.push_back(found.at(1));
    }
    energies = at::stack(each_energies);
    gradients = at::stack(each_gradients);
  } else {
    // As written: see eqcalc/model_file/execution.py.
    const torch::jit::GraphOptimizerEnabledGuard guard(false);
    std::vector<at::Tensor> each_energies, each_gradients;
    for (auto& program : parts_->programs) {
      const auto found = program({numbers, vectors, index, graph.n_owned}).toTuple();
      each_energies.push_back(found->elements().at(0).toTensor());
      each_gradients.push_back(found->elements().at(1).toTensor());
    }
    energies = at::stack(each_energies);
    gradients = at::stack(each_gradients);
  }
  // (n_members, n_atoms) and (n_members, n_edges, 3), where there is but one too.
  energies = energies.detach().to(at::kDouble).reshape({parts_->n_members, atoms});
  energies = energies.narrow(1, 0, graph.n_owned);
  gradients = gradients.detach().to(at::kDouble).reshape({parts_->n_members, edges, 3});
  gradients = gradients.narrow(1, 0, n_edges);

  const auto copy = [](const at::Tensor& from, std::vector<double>& to) {
    const auto whole = from.contiguous();
    to.assign(whole.data_ptr<double>(), whole.data_ptr<double>() + whole.numel());
  };
  copy(energies.mean(0), answer.energies);
  copy(gradients.mean(0), answer.gradients);
  copy(energies.sum(1), answer.member_energies);
  if (parts_->n_members > 1) copy(gradients, answer.gradient_of);
}

}  // namespace eqcalc_lammps
