// A model as the pair style calls it: atoms and edges in, energies and edge gradients out.
//
// Units are eV and Å, and everything is in double here; the model computes in its own precision.
// What the four arguments of a model mean is written in docs/model-file.md.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "exchange.h"
#include "ticket.h"

namespace eqcalc_lammps {

// Atoms, owned ones first, and edges sorted by receiver. Kept between steps for its memory.
//
// With a wide halo numbers has the ghosts too. Where features are exchanged it has owned atoms
// alone, and senders from n_owned on are ghosts.
struct Graph {
  int64_t n_owned = 0, n_ghosts = 0;        // the latter where features are exchanged
  std::vector<int64_t> numbers;             // atomic numbers (n_atoms)
  std::vector<int64_t> senders, receivers;  // (n_edges)
  std::vector<double> vectors;              // sender - receiver, (n_edges, 3), Å

  void clear();
};

// What a model says; of a committee the means and the spread.
struct Answer {
  std::vector<double> energies;         // (n_owned), eV
  std::vector<double> gradients;        // (n_edges, 3), eV/Å
  std::vector<double> gradient_of;      // members' gradients (n_members, n_edges, 3); a committee's
  std::vector<double> member_energies;  // (n_members), sums over owned atoms
};

class Model {
 public:
  // Throws std::runtime_error, or what torch throws.
  explicit Model(const Ticket& ticket);
  ~Model();

  void call(const Graph& graph, Answer& answer);
  void set_threads(int n_threads);

  // Whether ranks exchange features, in calls that all of them make at the same time; by what;
  // and the most bytes of a row that one of the exchanges takes.
  bool exchanges() const;
  void exchange_by(const eqcalc_exchange& host);
  int64_t widest_exchange();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace eqcalc_lammps
