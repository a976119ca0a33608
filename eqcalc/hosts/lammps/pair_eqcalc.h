// pair_style eqcalc: a model file of eqcalc as a potential of LAMMPS.
//
//   pair_style eqcalc [engine auto|inductor|torchscript] [precision model|float32|float64]
//                     [ranks auto|exchange|halo]
//   pair_coeff * * MODEL... ELEMENT...     one element for each atom type; NULL: not of this style
//
// docs/lammps.md describes it.

#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "model.h"
#include "pair.h"

namespace LAMMPS_NS {

class PairEqcalc : public Pair {
 public:
  explicit PairEqcalc(LAMMPS* lmp);
  ~PairEqcalc() override;

  void settings(int n, char** words) override;
  void coeff(int n, char** words) override;
  void init_style() override;
  double init_one(int i, int j) override;
  void compute(int eflag, int vflag) override;
  void* extract_peratom(const char* name, int& n_columns) override;
  double memory_usage() override;

  int pack_forward_comm(int n, int* atoms, double* buffer, int, int*) override;
  void unpack_forward_comm(int n, int first, double* buffer) override;
  int pack_reverse_comm(int n, int first, double* buffer) override;
  void unpack_reverse_comm(int n, int* atoms, double* buffer) override;

 private:
  eqcalc_lammps::Wish wish_;
  std::unique_ptr<eqcalc_lammps::Ticket> ticket_;
  std::unique_ptr<eqcalc_lammps::Model> model_;
  eqcalc_lammps::Graph graph_;
  eqcalc_lammps::Answer answer_;
  double cutoff_ = 0.0, per_ev_ = 1.0;  // Å; LAMMPS's unit of energy in eV
  int n_hops_ = 1, n_members_ = 1;
  bool is_set_up_ = false;  // LAMMPS, since the model was loaded
  bool is_new_ = true;      // nothing was computed since the run was set up
  std::vector<int> numbers_;   // atomic number of each type, 0: not of this style; or none yet
  std::vector<int> rows_;      // of each atom, owned and ghost: its row in the graph, or -1
  std::vector<int> atoms_;     // of each row: the atom
  std::vector<int> edge_to_;   // of each edge: the atom of LAMMPS that sends
  std::vector<double> member_forces_;  // (atoms, members, 3)
  std::vector<double> spread_;         // (atoms)

  // How ranks share the work, see docs/lammps.md.
  enum class Ranks { kOne, kHalo, kExchange };
  Ranks ranks_ = Ranks::kOne;

  // What LAMMPS's communication is about at the moment, and the rows that are exchanged: those of
  // ghosts begin at first_ghost.
  enum class Sending { kRows, kNeeds, kFeatures, kMemberForces };
  Sending sending_ = Sending::kRows;
  struct {
    char* rows;
    int64_t first_ghost, width;
    int kind;
    int64_t n_bytes() const { return width * (kind == EQCALC_FLOAT32 ? 4 : 8); }
    int n_doubles() const { return static_cast<int>((n_bytes() + 7) / 8); }
  } exchanged_{};
  std::unordered_map<const int*, std::vector<char>> needs_;  // of each list of atoms to be sent

  void forget_coefficients();
  void check_coefficients();
  void load();
  std::string models_in_words() const;
  [[noreturn]] void fail_alone(const std::string& file, int line, const std::string& words);
  void check_masses();
  void check_pairs();
  void check_exclusions();
  void check_bonds();
  void check_positions();
  void make_graph();
  void add_edges_to(int row);
  void number_images();
  void agree_on_ghosts();
  void check_answer();
  void add_forces();
  void add_member_forces();
  void allocate_spread();
  void say_sizes();
  char* exchanged_row(int atom) const;
  static int forward_features(void*, void*, int64_t, int64_t, int64_t, int);
  static int reverse_features(void*, void*, int64_t, int64_t, int64_t, int);
};

}  // namespace LAMMPS_NS
