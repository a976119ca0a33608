#include "model.h"

#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

#include <stdexcept>

namespace eqcalc_lammps {

namespace {

constexpr int64_t kFewest = 2;  // atoms and edges: the compiler takes sizes 0 and 1 for constants

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

}  // namespace

void Graph::clear() {
  n_owned = 0;
  numbers.clear();
  senders.clear();
  receivers.clear();
  vectors.clear();
}

struct Model::Parts {
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> package;
  std::vector<torch::jit::Module> programs;  // of each member, where nothing is compiled
  at::ScalarType precision = at::kDouble;
  double reach = 0.0;  // Å; beyond every cutoff
  int64_t n_members = 1;
};

Model::Model(const Ticket& ticket) : parts_(std::make_unique<Parts>()) {
  parts_->precision = ticket.text("dtype") == "float32" ? at::kFloat : at::kDouble;
  parts_->reach = 2.0 * ticket.number("cutoff");
  parts_->n_members = static_cast<int64_t>(ticket.number("members"));
  // The operators that compiled packages call.
  for (const auto& library : ticket.texts("library"))
    if (dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr)
      throw std::runtime_error(std::string("cannot load eqcalc's C++ library: ") + dlerror());
  if (ticket.text("engine") == "inductor") {
    parts_->package = std::make_unique<torch::inductor::AOTIModelPackageLoader>(
        ticket.text("package"), "model");
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

void Model::call(const Graph& graph, Answer& answer) {
  const int64_t n_atoms = graph.numbers.size(), n_edges = graph.senders.size();
  const bool is_compiled = parts_->package != nullptr;
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
    for (int64_t k = 0; k < 2; ++k) {
      z[n_atoms + k] = graph.numbers.front();
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
    auto found = parts_->package->run({numbers, vectors, index, weights});
    energies = found.at(0);
    gradients = found.at(1);
  } else {
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
