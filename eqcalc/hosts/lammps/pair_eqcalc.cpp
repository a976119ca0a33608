#include "pair_eqcalc.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "lammps.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "platform.h"
#include "timer.h"
#include "update.h"
#include "utils.h"

using namespace LAMMPS_NS;

namespace {

constexpr double kCoincident = 1e-3;     // Å; as eqcalc.neighbours.structure has it
// Masses, amu: so near to two elements that it tells neither; and close enough to be an element's.
constexpr double kSameMass = 0.01, kMassShare = 0.005, kMassNear = 0.02;
constexpr double kHeavyHydrogen[2] = {2.2, 4.5};  // amu: no isotope in use, mass of its neighbour

// LAMMPS keeps the group of comm_modify to its own classes.
struct GroupOf : public Comm {
  static int ghosts(const Comm* comm) { return comm->*(&GroupOf::bordergroup); }
};

// Wait until all ranks are here, asleep: MPI's own waiting keeps the cores busy, which those need
// that compile a model meanwhile.
void wait_for_all(MPI_Comm world) {
  MPI_Request request;
  MPI_Ibarrier(world, &request);
  for (int done = 0; !done;) {
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (!done) platform::usleep(10000);
  }
}

// Send text from rank 0 to all.
void broadcast(std::string& text, MPI_Comm world) {
  int size = static_cast<int>(text.size());
  MPI_Bcast(&size, 1, MPI_INT, 0, world);
  text.resize(size);
  MPI_Bcast(text.data(), size, MPI_CHAR, 0, world);
}

template <typename T>
void add_row(T* to, const T* from, int64_t width) {
  for (int64_t k = 0; k < width; ++k) to[k] += from[k];
}

// The most memory that this process has used, where the system tells.
double megabytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == "VmHWM:") {
      double kilobytes = 0.0;
      status >> kilobytes;
      return kilobytes / 1024.0;
    }
  return 0.0;
}

}  // namespace

PairEqcalc::PairEqcalc(LAMMPS* lmp) : Pair(lmp) {
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  no_virial_fdotr_compute = 1;  // made from edges, where it costs nothing and loses no digits
  centroidstressflag = CENTROID_NOTAVAIL;
}

PairEqcalc::~PairEqcalc() {
  if (copymode) return;
  if (allocated) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
    memory->destroy(cutghost);
  }
  delete[] pvector;
}

void PairEqcalc::settings(int n, char** words) {
  forget_coefficients();  // of a style that was there before: what was loaded is another
  wish_ = {};
  for (int k = 0; k < n; k += 2) {
    const std::string key = words[k];
    if (k + 1 == n) error->all(FLERR, "pair_style eqcalc: nothing stands behind '{}'", key);
    const std::string value = words[k + 1];
    const auto choose = [&](std::initializer_list<const char*> known, std::string& into) {
      if (std::find(known.begin(), known.end(), value) == known.end())
        error->all(FLERR, "pair_style eqcalc {}: expected {}, found '{}'", key,
                   utils::join_words({known.begin(), known.end()}, ", "), value);
      into = value;
    };
    if (key == "engine")
      choose({"auto", "inductor", "torchscript"}, wish_.engine);
    else if (key == "precision")
      choose({"model", "float32", "float64"}, wish_.precision);
    else if (key == "ranks")
      choose({"auto", "exchange", "halo"}, wish_.ranks);
    else
      error->all(FLERR, "pair_style eqcalc knows engine, precision and ranks, not '{}'", key);
  }
  const std::string units = update->unit_style;
  if (units != "metal" && units != "real")
    error->all(FLERR, "pair_style eqcalc needs units metal or real, not {}", units);
}

// Until a pair_coeff has succeeded there are none: whoever catches LAMMPS's errors, as Python can,
// would else run with what one that failed has left, half of it of the model before.
void PairEqcalc::forget_coefficients() {
  numbers_.clear();
  is_set_up_ = false;
  if (!allocated) return;
  for (int i = 1; i <= atom->ntypes; ++i)
    for (int j = i; j <= atom->ntypes; ++j) setflag[i][j] = 0;
}

// LAMMPS looks at setflag; of a hybrid style at its own, and in "run pre no" at none.
void PairEqcalc::check_coefficients() {
  if (numbers_.empty())
    error->all(FLERR, "pair_style eqcalc has no model: its last pair_coeff failed or is missing");
}

void PairEqcalc::coeff(int n, char** words) {
  forget_coefficients();
  const int n_types = atom->ntypes;
  if (n < 2 || std::strcmp(words[0], "*") != 0 || std::strcmp(words[1], "*") != 0)
    error->all(FLERR, "pair_coeff of eqcalc begins with * *: one model for all types");
  const int n_models = n - 2 - n_types;
  if (n_models < 1)
    error->all(FLERR,
               "pair_coeff * * MODEL... ELEMENT... needs a model and an element for each of the "
               "{} atom types (NULL where another style has them), found {} words", n_types,
               n - 2);
  wish_.models.assign(words + 2, words + 2 + n_models);
  for (const auto& model : wish_.models)
    if (model == "NULL" || (model.size() <= 2 && !platform::file_is_readable(model)))
      error->all(FLERR, "pair_coeff of eqcalc has more elements than the {} atom types: '{}' would "
                 "be a model", n_types, model);
  load();
  std::vector<int> numbers(n_types + 1, 0);
  const auto symbols = utils::split_words(ticket_->text("elements"));
  const auto known = utils::split_words(ticket_->text("numbers"));
  for (int type = 1; type <= n_types; ++type) {
    const std::string symbol = words[1 + n_models + type];
    if (symbol == "NULL") continue;
    const auto found = std::find(symbols.begin(), symbols.end(), symbol);
    if (found == symbols.end())
      error->all(FLERR, "{} knows {}; it does not know '{}', the element of type {}",
                 models_in_words(), utils::join_words(symbols, " "), symbol, type);
    numbers[type] = std::stoi(known[found - symbols.begin()]);
  }
  numbers_ = numbers;
  if (!allocated) {
    allocated = 1;
    memory->create(setflag, n_types + 1, n_types + 1, "pair:setflag");
    memory->create(cutsq, n_types + 1, n_types + 1, "pair:cutsq");
    memory->create(cutghost, n_types + 1, n_types + 1, "pair:cutghost");
  }
  for (int i = 1; i <= n_types; ++i)
    for (int j = 1; j <= n_types; ++j) {
      setflag[i][j] = i <= j && numbers_[i] > 0 && numbers_[j] > 0;
      cutsq[i][j] = cutoff_ * cutoff_;
      cutghost[i][j] = cutoff_;  // a length
    }
  // A compute that was made of a committee reads on when one model follows it, which has no spread.
  nextra = n_members_ > 1 ? 2 : 0;
  if (nextra > 0 && pvector == nullptr) pvector = new double[nextra];
  if (pvector != nullptr) std::fill_n(pvector, 2, std::nan(""));
}

// Have Python prepare the model on rank 0, and load on every rank what it says.
void PairEqcalc::load() {
  std::string said, why;
  if (comm->me == 0) {
    utils::logmesg(lmp, "eqcalc: preparing {}; its first use here compiles it, a minute or two\n",
                   models_in_words());
    utils::flush_buffers(lmp);
    try {
      auto wish = wish_;
      if (comm->nprocs == 1) wish.ranks = "one";
      said = eqcalc_lammps::prepare(wish);
    } catch (const std::exception& failure) {
      why = failure.what();
    }
  }
  wait_for_all(world);
  broadcast(why, world);
  if (!why.empty()) error->all(FLERR, "{}", why);
  broadcast(said, world);
  int is_loaded = 1;
  try {
    ticket_ = std::make_unique<eqcalc_lammps::Ticket>(said);
    model_ = std::make_unique<eqcalc_lammps::Model>(*ticket_);
    cutoff_ = ticket_->number("cutoff");
    n_hops_ = static_cast<int>(ticket_->number("hops"));
    n_members_ = static_cast<int>(ticket_->number("members"));
    per_ev_ = ticket_->number(update->unit_style);
    const auto& ranks = ticket_->text("ranks");
    ranks_ = ranks == "one" ? Ranks::kOne : ranks == "halo" ? Ranks::kHalo : Ranks::kExchange;
    comm_forward = 1;
    comm_reverse = n_members_ > 1 ? 3 * n_members_ : 0;
    if (ranks_ == Ranks::kExchange) {
      model_->exchange_by({this, &forward_features, &reverse_features});
      const int widest = static_cast<int>((model_->widest_exchange() + 7) / 8);
      comm_forward = std::max(comm_forward, widest);
      comm_reverse = std::max(comm_reverse, widest);
    }
  } catch (const std::exception& failure) {
    is_loaded = 0;
    why = failure.what();
  }
  int all_loaded = 0;
  MPI_Allreduce(&is_loaded, &all_loaded, 1, MPI_INT, MPI_MIN, world);
  if (!is_loaded)
    fail_alone(FLERR,
               fmt::format("rank {} cannot load {}: {}", comm->me, models_in_words(), why));
  if (!all_loaded) error->all(FLERR, "another rank cannot load {}", models_in_words());
  if (comm->me == 0)
    for (const auto& line : ticket_->texts("say")) utils::logmesg(lmp, "eqcalc: {}\n", line);
}

std::string PairEqcalc::models_in_words() const {
  return "model " + utils::join_words(wish_.models, ", ");
}

// End the run of all ranks by what this one has found. A rank that aborts right after its words may
// take them along: mpiexec does not read what is left (one run in ten ended without any).
void PairEqcalc::fail_alone(const std::string& file, int line, const std::string& words) {
  try {
    error->one(file, line, words);
  } catch (...) {
    if (comm->nprocs > 1) platform::usleep(200000);
    throw;
  }
}

void PairEqcalc::init_style() {
  check_coefficients();
  if (force->newton_pair == 0) error->all(FLERR, "pair_style eqcalc needs newton on");
  check_exclusions();
  if (neighbor->includegroup)
    error->all(FLERR, "pair_style eqcalc counts all atoms; neigh_modify include leaves some out");
  if (GroupOf::ghosts(comm))
    error->all(FLERR, "pair_style eqcalc counts all atoms; comm_modify group leaves some out");
  check_masses();
  // What LAMMPS makes its buffers for; a hybrid style has asked before the model was loaded.
  force->pair->comm_forward = std::max(force->pair->comm_forward, comm_forward);
  force->pair->comm_reverse = std::max(force->pair->comm_reverse, comm_reverse);
  is_set_up_ = is_new_ = true;
  model_->set_threads(std::max(1, comm->nthreads));
  if (ranks_ != Ranks::kHalo) {  // one cutoff is enough, and what LAMMPS gives by itself
    neighbor->add_request(this, NeighConst::REQ_FULL);
    return;
  }
  ghostneigh = 1;
  neighbor->add_request(this, NeighConst::REQ_FULL | NeighConst::REQ_GHOST);
  // What an owned atom's energy depends on lies within so many steps of one cutoff.
  const double halo = n_hops_ * cutoff_ + neighbor->skin;
  if (comm->cutghostuser < halo) {
    comm->cutghostuser = halo;
    if (comm->me == 0)
      utils::logmesg(lmp, "eqcalc: ghost atoms up to {:.2f} ({} x {:.2f} and the skin)\n", halo,
                     n_hops_, cutoff_);
  }
}

// fix gcmc and its like exclude pairs by themselves, after the styles were asked: an atom that they
// try to delete would count on as one alone, and be deleted at the wrong price.
void PairEqcalc::check_exclusions() {
  if (neighbor->nex_type > 0 || neighbor->nex_group > 0 || neighbor->nex_mol > 0)
    error->all(FLERR,
               "pair_style eqcalc counts all pairs; neigh_modify exclude, which fix gcmc uses too, "
               "would take some away");
}

// Atoms that are bound are not in LAMMPS's list where the factor of special_bonds is zero. Looked
// at in every step, because fixes make bonds too.
void PairEqcalc::check_bonds() {
  const int* flags = neighbor->special_flag + 1;  // of one, two and three bonds; 0: left out
  if (atom->molecular == Atom::ATOMIC || std::find(flags, flags + 3, 0) == flags + 3) return;
  bool is_whole = atom->nspecial != nullptr;  // atom_style template has bonds with its molecules
  for (int i = 0; is_whole && i < atom->nlocal; ++i) {
    if (numbers_[atom->type[i]] == 0) continue;
    const int* up_to = atom->nspecial[i];
    const int bound[3] = {up_to[0], up_to[1] - up_to[0], up_to[2] - up_to[1]};
    for (int k = 0; k < 3; ++k) is_whole &= flags[k] != 0 || bound[k] == 0;
  }
  if (!is_whole)
    fail_alone(FLERR,
               "pair_style eqcalc counts bonded pairs too, which special_bonds takes away; "
               "write: special_bonds lj/coul 1.0 1.0 1.0");
}

// Refuse a hybrid style that gives pairs of the model's types to another one.
void PairEqcalc::check_pairs() {
  if (list->ijskip == nullptr) return;
  for (int i = 1; i <= atom->ntypes; ++i)
    for (int j = 1; j <= atom->ntypes; ++j)
      if (numbers_[i] != 0 && numbers_[j] != 0 && list->ijskip[i][j])
        error->all(FLERR,
                   "pair_style eqcalc counts all pairs of its types, and a later pair_coeff gives "
                   "those of types {} and {} to another style; write NULL for types that are not "
                   "the model's, or pair_style hybrid/overlay", i, j);
}

double PairEqcalc::init_one(int, int) { return cutoff_; }

// Refuse types that have the mass of another element; eqcalc/simulate/lammps_style/type_elements.py
// has the same rule for scripts.
void PairEqcalc::check_masses() {
  if (atom->mass == nullptr) return;
  const auto symbols = utils::split_words(ticket_->text("all"));
  std::vector<double> masses;
  for (const auto& word : utils::split_words(ticket_->text("masses")))
    masses.push_back(std::stod(word));
  // Where mass was shifted to hydrogen from what it is bound to, masses say little of elements.
  bool is_shifted = false;
  for (int type = 1; type <= atom->ntypes; ++type)
    is_shifted |= numbers_[type] == 1 && atom->mass_setflag[type] &&
                  atom->mass[type] > kHeavyHydrogen[0] && atom->mass[type] < kHeavyHydrogen[1];
  is_shifted &= std::find(numbers_.begin() + 1, numbers_.end(), 2) == numbers_.end();
  for (int type = 1; type <= atom->ntypes; ++type) {
    if (numbers_[type] == 0 || !atom->mass_setflag[type]) continue;
    const double mass = atom->mass[type], own = masses[numbers_[type] - 1];
    const auto is_nearer = [&](double one, double other) {
      return std::abs(one - mass) < std::abs(other - mass);
    };
    const auto nearest = std::min_element(masses.begin(), masses.end(), is_nearer);
    if (std::abs(own - mass) <= std::abs(*nearest - mass) + kSameMass) continue;
    const auto& element = symbols[numbers_[type] - 1];
    if (!is_shifted && std::abs(*nearest - mass) <= std::max(kMassShare * *nearest, kMassNear))
      error->all(FLERR,
                 "pair_coeff calls type {} {}, but its mass is {:.6g}, that of {}; give the "
                 "elements in the order of the types", type, element, mass,
                 symbols[nearest - masses.begin()]);
    if (comm->me == 0)
      error->warning(FLERR, "type {} is {} with a mass of {:.6g} (commonly {:.6g})", type, element,
                     mass, own);
  }
}

void PairEqcalc::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  check_coefficients();
  if (!is_set_up_)  // ghosts, neighbours and buffers are those of the model before
    error->all(FLERR,
               "pair_coeff has loaded a model since LAMMPS was set up; run without 'pre no'");
  check_exclusions();
  check_bonds();
  if (is_new_) check_pairs();  // the list knows them by now
  check_positions();
  make_graph();
  // Exchanges are calls of all ranks: one without atoms makes them too.
  if (graph_.n_owned > 0 || ranks_ == Ranks::kExchange) {
    try {
      model_->call(graph_, answer_);
    } catch (const std::exception& failure) {
      fail_alone(FLERR, fmt::format("{} failed: {}", models_in_words(), failure.what()));
    }
    check_answer();
    add_forces();
  }
  if (n_members_ > 1) add_member_forces();
  if (is_new_) say_sizes();
  is_new_ = false;
}

// Once for every run: what the model was given.
void PairEqcalc::say_sizes() {
  const int64_t n_ghosts = graph_.n_ghosts + graph_.numbers.size() - graph_.n_owned;
  double own[3] = {static_cast<double>(graph_.n_owned), static_cast<double>(n_ghosts),
                   static_cast<double>(edge_to_.size())};
  double sums[3], memory = megabytes(), most = 0.0;
  MPI_Reduce(own, sums, 3, MPI_DOUBLE, MPI_SUM, 0, world);
  MPI_Reduce(&memory, &most, 1, MPI_DOUBLE, MPI_MAX, 0, world);
  if (comm->me == 0)
    utils::logmesg(lmp, "eqcalc: {:.0f} atoms{}, {:.0f} edges; a rank has used {:.0f} MB at most\n",
                   sums[0],
                   ranks_ == Ranks::kOne ? "" : fmt::format(" and {:.0f} ghosts", sums[1]), sums[2],
                   most);
  // Asked for by "eqcalc lammps check": this run, and all that follow, end here.
  if (std::getenv("EQCALC_LAMMPS_CHECK") != nullptr) timer->force_timeout();
}

// A position that is not finite has no neighbours, and would give a finite energy.
void PairEqcalc::check_positions() {
  const int n_all = atom->nlocal + atom->nghost;
  const double* x = n_all > 0 ? &atom->x[0][0] : nullptr;
  for (int k = 0; k < 3 * n_all; ++k)
    if (!std::isfinite(x[k]))
      fail_alone(FLERR,
                 fmt::format("atom {} has a position that is not finite; look at the last frames",
                             atom->tag[k / 3]));
}

// Rows and edges of the model's graph.
//
// On one rank every ghost is an image of an owned atom, and stands for it: the graph is that of
// the periodic structure. Where ranks share the work the ghosts on which owned atoms depend follow
// the owned atoms: neighbours where features are exchanged, and with a wide halo neighbours of
// neighbours, as often as the network passes messages.
void PairEqcalc::make_graph() {
  graph_.clear();
  atoms_.clear();
  edge_to_.clear();
  rows_.assign(atom->nlocal + atom->nghost, -1);
  for (int k = 0; k < list->inum; ++k) {
    const int i = list->ilist[k];
    if (i >= atom->nlocal || numbers_[atom->type[i]] == 0) continue;
    rows_[i] = static_cast<int>(atoms_.size());
    atoms_.push_back(i);
  }
  graph_.n_owned = static_cast<int64_t>(atoms_.size());
  if (ranks_ == Ranks::kOne) number_images();
  size_t begin = 0, end = atoms_.size();
  for (int hop = 0; hop < (ranks_ == Ranks::kHalo ? n_hops_ : 1); ++hop) {
    for (size_t row = begin; row < end; ++row) add_edges_to(static_cast<int>(row));
    begin = end;
    end = atoms_.size();
  }
  if (ranks_ == Ranks::kExchange) agree_on_ghosts();
  const size_t n_numbers = ranks_ == Ranks::kExchange ? graph_.n_owned : atoms_.size();
  graph_.numbers.resize(n_numbers);
  for (size_t row = 0; row < n_numbers; ++row)
    graph_.numbers[row] = numbers_[atom->type[atoms_[row]]];
}

void PairEqcalc::add_edges_to(int row) {
  const int i = atoms_[row];
  const double* xi = atom->x[i];
  const int* neighbours = list->firstneigh[i];
  for (int k = 0; k < list->numneigh[i]; ++k) {
    const int j = neighbours[k] & NEIGHMASK;
    if (numbers_[atom->type[j]] == 0) continue;
    const double* xj = atom->x[j];
    const double r[3] = {xj[0] - xi[0], xj[1] - xi[1], xj[2] - xi[2]};
    const double squared = r[0] * r[0] + r[1] * r[1] + r[2] * r[2];
    if (squared >= cutoff_ * cutoff_) continue;
    if (squared < kCoincident * kCoincident)
      fail_alone(FLERR, fmt::format("atoms {} and {} are {:.2g} apart", atom->tag[i],
                                    atom->tag[j], std::sqrt(squared)));
    if (rows_[j] < 0) {
      if (ranks_ == Ranks::kOne)
        fail_alone(FLERR, fmt::format("atom {} is an image of none", atom->tag[j]));
      rows_[j] = static_cast<int>(atoms_.size());
      atoms_.push_back(j);
    }
    graph_.senders.push_back(rows_[j]);
    graph_.receivers.push_back(row);
    graph_.vectors.insert(graph_.vectors.end(), r, r + 3);
    edge_to_.push_back(j);
  }
}

// Give every ghost its owner's row.
void PairEqcalc::number_images() {
  sending_ = Sending::kRows;
  comm->forward_comm(this, 1);
}

// Tell the owners which ghosts have a row here: the features of others, a third of them with
// LAMMPS's skin, do not travel. A rank that passes a ghost on has a row for it too.
void PairEqcalc::agree_on_ghosts() {
  sending_ = Sending::kNeeds;
  needs_.clear();
  comm->reverse_comm(this, 1);
  graph_.n_ghosts = static_cast<int64_t>(atoms_.size()) - graph_.n_owned;
}

// The library's calls between the layers of a network, on all ranks at the same time.
int PairEqcalc::forward_features(void* context, void* rows, int64_t n_owned, int64_t,
                                 int64_t width, int kind) {
  auto* pair = static_cast<PairEqcalc*>(context);
  pair->sending_ = Sending::kFeatures;
  pair->exchanged_ = {static_cast<char*>(rows), n_owned, width, kind};
  pair->comm->forward_comm(pair, pair->exchanged_.n_doubles());
  return 1;
}

int PairEqcalc::reverse_features(void* context, void* rows, int64_t n_owned, int64_t,
                                 int64_t width, int kind) {
  auto* pair = static_cast<PairEqcalc*>(context);
  pair->sending_ = Sending::kFeatures;
  pair->exchanged_ = {static_cast<char*>(rows), n_owned, width, kind};
  pair->comm->reverse_comm(pair, pair->exchanged_.n_doubles());
  return 1;
}

// The row of an atom, which has one. The model may have put rows of its own before those of ghosts.
char* PairEqcalc::exchanged_row(int atom_) const {
  int64_t row = rows_[atom_];
  if (row >= graph_.n_owned) row += exchanged_.first_ghost - graph_.n_owned;
  return exchanged_.rows + row * exchanged_.n_bytes();
}

int PairEqcalc::pack_forward_comm(int n, int* atoms, double* buffer, int, int*) {
  if (sending_ == Sending::kRows) {
    for (int k = 0; k < n; ++k) buffer[k] = rows_[atoms[k]];
    return n;
  }
  const auto& needs = needs_[atoms];
  double* end = buffer;
  for (int k = 0; k < n; ++k) {
    if (!needs[k]) continue;
    std::memcpy(end, exchanged_row(atoms[k]), exchanged_.n_bytes());
    end += exchanged_.n_doubles();
  }
  return static_cast<int>(end - buffer);
}

void PairEqcalc::unpack_forward_comm(int n, int first, double* buffer) {
  if (sending_ == Sending::kRows) {
    for (int k = 0; k < n; ++k) rows_[first + k] = static_cast<int>(buffer[k]);
    return;
  }
  for (int k = 0; k < n; ++k) {
    if (rows_[first + k] < 0) continue;
    std::memcpy(exchanged_row(first + k), buffer, exchanged_.n_bytes());
    buffer += exchanged_.n_doubles();
  }
}

int PairEqcalc::pack_reverse_comm(int n, int first, double* buffer) {
  if (sending_ == Sending::kMemberForces) {
    const int width = 3 * n_members_;
    std::copy_n(&member_forces_[static_cast<size_t>(first) * width], n * width, buffer);
    return n * width;
  }
  if (sending_ == Sending::kNeeds) {
    for (int k = 0; k < n; ++k) buffer[k] = rows_[first + k] < 0 ? 0.0 : 1.0;
    return n;
  }
  double* end = buffer;
  for (int k = 0; k < n; ++k) {
    if (rows_[first + k] < 0) continue;
    std::memcpy(end, exchanged_row(first + k), exchanged_.n_bytes());
    end += exchanged_.n_doubles();
  }
  return static_cast<int>(end - buffer);
}

void PairEqcalc::unpack_reverse_comm(int n, int* atoms, double* buffer) {
  if (sending_ == Sending::kMemberForces) {
    const int width = 3 * n_members_;
    for (int k = 0; k < n; ++k)
      for (int x = 0; x < width; ++x)
        member_forces_[static_cast<size_t>(atoms[k]) * width + x] += *buffer++;
    return;
  }
  auto& needs = needs_[atoms];
  if (sending_ == Sending::kNeeds) {
    needs.assign(buffer, buffer + n);
    for (int k = 0; k < n; ++k)
      if (needs[k] && rows_[atoms[k]] < 0) {  // a ghost that is passed on
        rows_[atoms[k]] = static_cast<int>(atoms_.size());
        atoms_.push_back(atoms[k]);
      }
    return;
  }
  for (int k = 0; k < n; ++k) {
    if (!needs[k]) continue;
    char* row = exchanged_row(atoms[k]);
    if (exchanged_.kind == EQCALC_FLOAT32)
      add_row(reinterpret_cast<float*>(row), reinterpret_cast<float*>(buffer), exchanged_.width);
    else
      add_row(reinterpret_cast<double*>(row), buffer, exchanged_.width);
    buffer += exchanged_.n_doubles();
  }
}

void PairEqcalc::check_answer() {
  double sum = 0.0;
  for (const double value : answer_.energies) sum += value * value;
  for (const double value : answer_.gradients) sum += value * value;
  if (!std::isfinite(sum))
    fail_alone(FLERR,
               fmt::format("{} returned NaN or infinity; the structure is far outside what it was "
                           "trained on (look at the last frames)", models_in_words()));
}

// Energies, forces and virial. A gradient g belongs to the vector from receiver i to sender j:
// F_i += g, F_j -= g, and the virial sum of r F is -r g.
void PairEqcalc::add_forces() {
  double** f = atom->f;
  if (eflag_either)
    for (int64_t row = 0; row < graph_.n_owned; ++row) {
      const double energy = per_ev_ * answer_.energies[row];
      if (eflag_global) eng_vdwl += energy;
      if (eflag_atom) eatom[atoms_[row]] += energy;
    }
  const int64_t n_edges = static_cast<int64_t>(edge_to_.size());
  for (int64_t e = 0; e < n_edges; ++e) {
    const int i = atoms_[graph_.receivers[e]], j = edge_to_[e];
    const double *r = &graph_.vectors[3 * e], *found = &answer_.gradients[3 * e];
    const double g[3] = {per_ev_ * found[0], per_ev_ * found[1], per_ev_ * found[2]};
    for (int x = 0; x < 3; ++x) {
      f[i][x] += g[x];
      f[j][x] -= g[x];
    }
    if (!vflag_either) continue;
    const double v[6] = {-r[0] * g[0], -r[1] * g[1], -r[2] * g[2],
                         -0.5 * (r[0] * g[1] + r[1] * g[0]), -0.5 * (r[0] * g[2] + r[2] * g[0]),
                         -0.5 * (r[1] * g[2] + r[2] * g[1])};
    for (int x = 0; x < 6; ++x) {
      if (vflag_global) virial[x] += v[x];
      if (vflag_atom) {
        vatom[i][x] += 0.5 * v[x];
        vatom[j][x] += 0.5 * v[x];
      }
    }
  }
}

// A committee's spread: per atom the length of the standard deviations of its force's components,
// with one degree of freedom less than there are members;
// of all, the standard deviation of the energy, and the largest of the atoms' spreads.
void PairEqcalc::add_member_forces() {
  const int n_all = atom->nlocal + atom->nghost, width = 3 * n_members_;
  const int64_t n_edges = static_cast<int64_t>(edge_to_.size());
  member_forces_.assign(static_cast<size_t>(n_all) * width, 0.0);
  for (int m = 0; graph_.n_owned > 0 && m < n_members_; ++m)
    for (int64_t e = 0; e < n_edges; ++e) {
      const double* g = &answer_.gradient_of[3 * (m * n_edges + e)];
      double* to_i = &member_forces_[static_cast<size_t>(atoms_[graph_.receivers[e]]) * width];
      double* to_j = &member_forces_[static_cast<size_t>(edge_to_[e]) * width];
      for (int x = 0; x < 3; ++x) {
        to_i[3 * m + x] += g[x];
        to_j[3 * m + x] -= g[x];
      }
    }
  sending_ = Sending::kMemberForces;
  comm->reverse_comm(this, width);
  allocate_spread();
  double largest = 0.0;
  for (int i = 0; i < atom->nlocal; ++i) {
    const double* forces = &member_forces_[static_cast<size_t>(i) * width];
    double variance = 0.0;
    for (int x = 0; x < 3; ++x) {
      double mean = 0.0;
      for (int m = 0; m < n_members_; ++m) mean += forces[3 * m + x] / n_members_;
      for (int m = 0; m < n_members_; ++m)
        variance += (forces[3 * m + x] - mean) * (forces[3 * m + x] - mean) / (n_members_ - 1);
    }
    spread_[i] = per_ev_ * std::sqrt(variance);
    largest = std::max(largest, spread_[i]);
  }
  std::vector<double> own(n_members_, 0.0), energies(n_members_);
  if (graph_.n_owned > 0) own = answer_.member_energies;
  MPI_Allreduce(own.data(), energies.data(), n_members_, MPI_DOUBLE, MPI_SUM, world);
  double all_largest = 0.0, mean = 0.0, variance = 0.0;
  MPI_Allreduce(&largest, &all_largest, 1, MPI_DOUBLE, MPI_MAX, world);
  for (const double energy : energies) mean += energy / n_members_;
  for (const double energy : energies) variance += (energy - mean) * (energy - mean) / (n_members_ - 1);
  // compute pair adds up what the ranks have.
  pvector[0] = comm->me == 0 ? per_ev_ * std::sqrt(variance) : 0.0;
  pvector[1] = comm->me == 0 ? all_largest : 0.0;
}

void PairEqcalc::allocate_spread() { spread_.assign(std::max(atom->nmax, 1), 0.0); }

void* PairEqcalc::extract_peratom(const char* name, int& n_columns) {
  if (std::strcmp(name, "spread") != 0 || n_members_ < 2) return nullptr;
  n_columns = 0;
  if (spread_.size() < static_cast<size_t>(atom->nmax)) allocate_spread();
  return spread_.data();
}

double PairEqcalc::memory_usage() {
  return Pair::memory_usage() +
         8.0 * (graph_.numbers.capacity() + graph_.senders.capacity() * 2 +
                graph_.vectors.capacity() + answer_.gradients.capacity() +
                answer_.gradient_of.capacity() + member_forces_.capacity());
}
