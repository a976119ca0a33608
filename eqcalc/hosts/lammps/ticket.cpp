#include "ticket.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <stdexcept>

extern char** environ;

namespace eqcalc_lammps {

Ticket::Ticket(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const auto space = line.find(' ');
    if (space != std::string::npos) lines_.emplace(line.substr(0, space), line.substr(space + 1));
  }
}

const std::string& Ticket::text(const std::string& key) const {
  const auto found = lines_.find(key);
  if (found == lines_.end()) throw std::runtime_error("eqcalc lammps prepare did not say " + key);
  return found->second;
}

std::vector<std::string> Ticket::texts(const std::string& key) const {
  std::vector<std::string> found;
  const auto [begin, end] = lines_.equal_range(key);
  for (auto line = begin; line != end; ++line) found.push_back(line->second);
  return found;
}

double Ticket::number(const std::string& key) const { return std::stod(text(key)); }

namespace {

// Both ends of a pipe, closed with it.
struct Pipe {
  int ends[2];
  Pipe() {
    if (pipe(ends) != 0) throw std::runtime_error(std::strerror(errno));
  }
  ~Pipe() {
    for (int end : ends)
      if (end >= 0) close(end);
  }
  void close_end(int which) {
    close(ends[which]);
    ends[which] = -1;
  }
};

// The environment without what tells a process that it is a rank of this run.
std::vector<char*> environment() {
  std::vector<char*> kept;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    bool is_of_a_rank = false;
    for (const char* prefix : {"PMI_", "PMIX_", "OMPI_", "MPI_LOCAL", "MPIR_"})
      is_of_a_rank |= std::strncmp(*entry, prefix, std::strlen(prefix)) == 0;
    if (!is_of_a_rank) kept.push_back(*entry);
  }
  kept.push_back(nullptr);
  return kept;
}

}  // namespace

std::string prepare(const Wish& wish) {
  const char* own = std::getenv("EQCALC_PYTHON");
  const std::string python = own != nullptr && *own != '\0' ? own : EQCALC_PYTHON;
  std::vector<std::string> words{python,     "-m",         "eqcalc",    "lammps",
                                 "prepare",  "--engine",   wish.engine, "--dtype",
                                 wish.precision, "--ranks", wish.ranks, "--"};
  words.insert(words.end(), wish.models.begin(), wish.models.end());
  std::vector<char*> arguments;
  for (auto& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);

  Pipe answer;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, answer.ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addclose(&actions, answer.ends[0]);
  auto variables = environment();
  pid_t child = 0;
  const int failed =
      posix_spawnp(&child, python.c_str(), &actions, nullptr, arguments.data(), variables.data());
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0)
    throw std::runtime_error("cannot run '" + python + "' (" + std::strerror(failed) +
                             "); set EQCALC_PYTHON to the Python that has eqcalc");
  answer.close_end(1);
  std::string said;
  char buffer[4096];
  for (ssize_t n = 0; (n = read(answer.ends[0], buffer, sizeof buffer)) != 0;) {
    if (n > 0)
      said.append(buffer, n);
    else if (errno != EINTR)
      break;
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return said;
  const auto errors = Ticket(said).texts("error");
  throw std::runtime_error(errors.empty() ? "'" + python + " -m eqcalc lammps prepare' failed: " +
                                                "see its own message above"
                                          : errors.front());
}

}  // namespace eqcalc_lammps
