#include "planner/integer_program.h"

#include <Cbc_C_Interface.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <omp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <numeric>

#include "core/error.h"

namespace lathe {
namespace {

#define LATHE_CBC_FUNCTIONS(X)                                                                                                       \
  X(newModel) X(setLogLevel) X(setParameter) X(loadProblem) X(setInteger) X(solve) X(getColSolution) X(isProvenInfeasible) \
  X(bestSolution) X(setMIPStartI) X(getBestPossibleObjValue) X(isProvenOptimal) X(getObjValue) X(registerCallBack)

struct Cbc {
#define LATHE_CBC_MEMBER(name) decltype(&Cbc_##name) name = nullptr;  // NOLINT(bugprone-macro-parentheses)
  LATHE_CBC_FUNCTIONS(LATHE_CBC_MEMBER)
#undef LATHE_CBC_MEMBER

  Cbc() {
    void* library = nullptr;
    for (const char* file : {"libCbcSolver.so.3", "libCbcSolver.so"})
      if (!library) library = ::dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) fail(ErrorKind::kUnsupported, "the integer program needs the solver Cbc (Debian's coinor-libcbc3.1), which cannot be loaded: {}", ::dlerror());
    auto find = [&](const char* function) {
      void* symbol = ::dlsym(library, function);
      if (!symbol) fail(ErrorKind::kUnsupported, "this version of Cbc has no {}", function);
      return symbol;
    };
#define LATHE_CBC_FIND(name) name = reinterpret_cast<decltype(name)>(find("Cbc_" #name));
    LATHE_CBC_FUNCTIONS(LATHE_CBC_FIND)
#undef LATHE_CBC_FIND
  }
};

const Cbc& cbc() {
  static const Cbc functions;
  return functions;
}

// What the solving process tells: where it stands, and at the end what it found, followed by as many numbers as there are variables.
struct Message {
  enum class Kind : int32_t { kProgress, kResult, kUnsupported } kind = Kind::kProgress;
  int32_t found = 0, optimal = 0, impossible = 0;
  double cost = kNoLimit, bound = -kNoLimit;
};

int out = -1;  // of the solving process, which solves one program
double best_told = kNoLimit, bound_told = -kNoLimit;

bool write_all(int file, const void* data, size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t count = ::write(file, at, size);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    at += count;
    size -= static_cast<size_t>(count);
  }
  return true;
}

// Messages of Cbc's log (CbcMessage.cpp): 4, 12 and 16 are solutions, 10 is the state of the search.
void COINLINKAGE_CB told(Cbc_Model*, int number, int doubles, const double* values, int, const int*, int, char**) {
  if (doubles < 1) return;
  if (number == 10 && doubles >= 2) best_told = std::min(best_told, values[0]), bound_told = std::max(bound_told, values[1]);
  else if (number == 4 || number == 12 || number == 16) best_told = std::min(best_told, values[0]);
  else return;
  const Message m{Message::Kind::kProgress, 0, 0, 0, best_told, bound_told};
  write_all(out, &m, sizeof m);
}

}  // namespace

int IntegerProgram::add_variable(double lowest, double highest, double price, bool is_integer) {
  low.push_back(lowest);
  high.push_back(highest);
  cost.push_back(price);
  integer.push_back(is_integer);
  columns.emplace_back();
  return static_cast<int>(cost.size()) - 1;
}

void IntegerProgram::add_row(double lowest, double highest, const std::vector<std::pair<int, double>>& terms) {
  const int row = static_cast<int>(row_low.size());
  row_low.push_back(lowest);
  row_high.push_back(highest);
  for (auto [variable, factor] : terms) {
    auto& column = columns[static_cast<size_t>(variable)];
    if (!column.empty() && column.back().first == row) column.back().second += factor;
    else column.emplace_back(row, factor);
  }
}

namespace {

void solve_here(const IntegerProgram& p, const ProgramOptions& options) {
  std::vector<CoinBigIndex> starts;
  std::vector<int> rows;
  std::vector<double> values;
  for (const auto& column : p.columns) {
    starts.push_back(static_cast<CoinBigIndex>(rows.size()));
    for (auto [row, factor] : column) rows.push_back(row), values.push_back(factor);
  }
  starts.push_back(static_cast<CoinBigIndex>(rows.size()));
  const Cbc& solver = cbc();
  Cbc_Model* model = solver.newModel();
  solver.setLogLevel(model, 1);  // at 0 messages are not made, and the callback hears none
  solver.setParameter(model, "log", "1");
  solver.setParameter(model, "timeMode", "elapsed");
  solver.setParameter(model, "seconds", fmt::format("{:.3f}", std::max(0.9 * options.seconds, 0.01)).c_str());
  solver.setParameter(model, "ratioGap", fmt::format("{:g}", options.relative_gap).c_str());
  if (options.absolute_gap > 0) solver.setParameter(model, "allowableGap", fmt::format("{:g}", options.absolute_gap).c_str());
  solver.loadProblem(model, static_cast<int>(p.variables()), static_cast<int>(p.rows()), starts.data(), rows.data(), values.data(), p.low.data(), p.high.data(), p.cost.data(),
                     p.row_low.data(), p.row_high.data());
  if (!options.relaxed) {
    for (size_t i = 0; i < p.variables(); ++i)
      if (p.integer[i]) solver.setInteger(model, static_cast<int>(i));
    if (!options.start.empty()) {
      std::vector<int> which(p.variables());
      std::iota(which.begin(), which.end(), 0);
      solver.setMIPStartI(model, static_cast<int>(which.size()), which.data(), options.start.data());
    }
  }
  solver.registerCallBack(model, told);
  solver.solve(model);
  Message m{Message::Kind::kResult};
  m.impossible = solver.isProvenInfeasible(model) != 0;
  const double* x = options.relaxed ? solver.getColSolution(model) : solver.bestSolution(model);
  m.found = x && !m.impossible;
  m.optimal = m.found && solver.isProvenOptimal(model) != 0;
  if (m.found) m.cost = solver.getObjValue(model);
  // A relaxation is a bound only when it is solved.
  if (m.optimal) m.bound = m.cost;
  else if (!options.relaxed) m.bound = solver.getBestPossibleObjValue(model);
  write_all(out, &m, sizeof m);
  if (m.found) write_all(out, x, p.variables() * sizeof(double));
}

// In the new process: nothing of the parent's is touched, nothing printed, and no destructor runs.
[[noreturn]] void become_solver(int pipe, const IntegerProgram& p, const ProgramOptions& options) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (int number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) std::signal(number, SIG_DFL);
  out = pipe;
  if (const int null = ::open("/dev/null", O_RDWR); null >= 0)
    for (int file : {0, 1, 2}) ::dup2(null, file);
  omp_set_num_threads(1);  // the threads of the parent's teams are not here
  try {
    solve_here(p, options);
  } catch (...) {
    const Message m{Message::Kind::kUnsupported};
    write_all(out, &m, sizeof m);
  }
  ::_exit(0);
}

class Solver {
 public:
  Solver(const IntegerProgram& p, const ProgramOptions& options) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) fail(ErrorKind::kInternal, "no pipe to a solver: {}", std::strerror(errno));
    process_ = ::fork();
    if (process_ == 0) {
      ::close(ends[0]);
      become_solver(ends[1], p, options);
    }
    ::close(ends[1]);
    in_ = ends[0];
    if (process_ < 0) {
      ::close(in_);
      fail(ErrorKind::kInternal, "no process for a solver: {}", std::strerror(errno));
    }
  }
  Solver(const Solver&) = delete;
  ~Solver() {
    ::close(in_);
    ::kill(process_, SIGKILL);
    while (::waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {}
  }
  // False at the end of what it says, or of the time.
  bool read(void* data, size_t size, std::chrono::steady_clock::time_point until) {
    char* at = static_cast<char*>(data);
    while (size > 0) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now()).count();
      if (left <= 0) return false;
      pollfd poll{in_, POLLIN, 0};
      const int ready = ::poll(&poll, 1, static_cast<int>(std::min<int64_t>(left, 1000)));
      if (ready < 0 && errno != EINTR) return false;
      if (ready <= 0) continue;
      const ssize_t count = ::read(in_, at, size);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return false;
      at += count;
      size -= static_cast<size_t>(count);
    }
    return true;
  }

 private:
  pid_t process_ = -1;
  int in_ = -1;
};

}  // namespace

ProgramSolution solve(const IntegerProgram& p, const ProgramOptions& options) {
  ProgramSolution result;
  if (p.variables() == 0) {
    result.found = result.optimal = true;
    result.cost = result.bound = 0;
    return result;
  }
  (void)cbc();  // or say here that it is missing
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(std::max(options.seconds, 0.01)));
  Solver solver(p, options);
  Message m;
  while (solver.read(&m, sizeof m, until)) {
    if (m.kind == Message::Kind::kUnsupported) fail(ErrorKind::kInternal, "the solver gave up");
    if (m.kind == Message::Kind::kProgress) {
      result.bound = std::max(result.bound, m.bound);
      if (options.progress && !options.relaxed) options.progress(m.cost, m.bound);
      continue;
    }
    result.impossible = m.impossible != 0;
    result.bound = std::max(result.bound, m.bound);
    if (!m.found) break;
    result.x.resize(p.variables());
    if (!solver.read(result.x.data(), result.x.size() * sizeof(double), until + std::chrono::seconds(1))) {
      result.x.clear();
      break;
    }
    result.found = true;
    result.optimal = m.optimal != 0;
    result.cost = m.cost;
    break;
  }
  return result;
}

}  // namespace lathe
