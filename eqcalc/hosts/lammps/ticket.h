// What Python found out about a model before LAMMPS runs it: `python -m eqcalc lammps prepare`.
//
// Python reads the file, checks it, compiles it where that can be done, and has the result
// reproduce the model's passport. The pair style starts it as a process of its own on rank 0.

#pragma once

#include <map>
#include <string>
#include <vector>

namespace eqcalc_lammps {

// What the input file asks for.
struct Wish {
  std::vector<std::string> models;  // files, or names of shipped models
  std::string engine = "auto", precision = "model", ranks = "auto";
};

// Lines "key value", in which a key may come several times.
class Ticket {
 public:
  explicit Ticket(const std::string& text);

  const std::string& text(const std::string& key) const;
  std::vector<std::string> texts(const std::string& key) const;
  double number(const std::string& key) const;

 private:
  std::multimap<std::string, std::string> lines_;
};

// Run Python and return what it printed. Throws std::runtime_error with what it said otherwise.
std::string prepare(const Wish& wish);

}  // namespace eqcalc_lammps
