#include "planner/kernel_times.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "core/file.h"
#include "planner/sqlite_statement.h"

namespace lathe {
namespace {

// Long enough for several other processes to finish their transactions of some hundred rows, short enough
// not to be taken for a hang.
constexpr int kBusyMilliseconds = 5000;
// Of the table's form. Another number in the file (PRAGMA user_version) means that a different lathe wrote it.
constexpr int kFormat = 1;

void bind_key(sqlite3_stmt* s, const KernelTimesKey& key) {
  bind_text(s, 1, key.machine);
  bind_text(s, 2, key.build);
  sqlite3_bind_int(s, 3, key.threads);
  bind_text(s, 4, key.request);
  bind_text(s, 5, key.kernels);
}

// "1.5e-05,2e-05"; nothing unless there are `count` of them, finite and positive.
std::optional<std::vector<double>> parse_seconds(const char* text, size_t count) {
  std::vector<double> seconds;
  while (text && *text) {
    char* end = nullptr;
    double value = std::strtod(text, &end);
    if (end == text || !std::isfinite(value) || value <= 0 || (*end != ',' && *end != 0)) return std::nullopt;
    seconds.push_back(value);
    text = *end ? end + 1 : end;
  }
  if (seconds.size() != count) return std::nullopt;
  return seconds;
}

}  // namespace

std::string default_kernel_times_file() {
  if (const char* path = std::getenv("LATHE_CACHE"); path && *path) return path;
  std::string folder = user_cache_folder();
  return folder.empty() ? "" : folder + "/kernels.db";
}

KernelTimes::KernelTimes(std::string path) : path_(std::move(path)) { open(); }

KernelTimes::~KernelTimes() { sqlite3_close(database_); }

bool KernelTimes::check(int code) {
  if (code == SQLITE_OK || code == SQLITE_ROW || code == SQLITE_DONE) return true;
  notices_.push_back(fmt::format("the kernel times in {} are not used: {}{}", path_, database_ ? sqlite3_errmsg(database_) : sqlite3_errstr(code),
                                 code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? " (delete the file to start anew)" : ""));
  sqlite3_close(database_);
  database_ = nullptr;
  return false;
}

void KernelTimes::open() {
  if (path_.empty()) return;
  std::error_code ignored;  // a folder that cannot be made is told by the open below
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), ignored);
  int code = sqlite3_open_v2(path_.c_str(), &database_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr);
  if (!check(code)) return;
  sqlite3_busy_timeout(database_, kBusyMilliseconds);
  // Not waiting for the disk: processes may die at any moment without harm, and what a power failure breaks
  // is noticed and can be measured again. Waiting makes processes that write at once starve each other.
  sqlite3_exec(database_, "PRAGMA synchronous = OFF", nullptr, nullptr, nullptr);
  int format = 0;
  {
    Statement s = prepare(database_, "PRAGMA user_version", &code);
    if (code == SQLITE_OK) code = sqlite3_step(s.get());
    if (code == SQLITE_ROW) format = sqlite3_column_int(s.get(), 0);
  }
  if (!check(code) || format == kFormat) return;
  if (format != 0) {
    notices_.push_back(fmt::format("the kernel times in {} are not used: another version of lathe wrote them", path_));
    sqlite3_close(database_);
    database_ = nullptr;
    return;
  }
  // IF NOT EXISTS: another process may make the table between our look and this statement.
  std::string make = fmt::format(
      "BEGIN IMMEDIATE;"
      "CREATE TABLE IF NOT EXISTS kernel_times (machine TEXT, build TEXT, threads INTEGER, request TEXT, kernels TEXT,"
      " seconds TEXT NOT NULL, measured TEXT DEFAULT CURRENT_TIMESTAMP,"
      " PRIMARY KEY (machine, build, threads, request, kernels)) WITHOUT ROWID;"
      "PRAGMA user_version = {}; COMMIT;", kFormat);
  check(sqlite3_exec(database_, make.c_str(), nullptr, nullptr, nullptr));
}

std::optional<std::vector<double>> KernelTimes::find(const KernelTimesKey& key, size_t kernels) {
  if (auto it = known_.find(key); it != known_.end()) return it->second;
  if (!database_) return std::nullopt;
  int code;
  std::optional<std::vector<double>> seconds;
  {
    Statement s = prepare(database_, "SELECT seconds FROM kernel_times WHERE machine = ?1 AND build = ?2 AND threads = ?3 AND request = ?4 AND kernels = ?5", &code);
    if (code == SQLITE_OK) {
      bind_key(s.get(), key);
      code = sqlite3_step(s.get());
    }
    if (code == SQLITE_ROW) seconds = parse_seconds(reinterpret_cast<const char*>(sqlite3_column_text(s.get(), 0)), kernels);
  }
  if (!check(code)) return std::nullopt;
  if (seconds) known_[key] = *seconds;
  return seconds;
}

void KernelTimes::add(const KernelTimesKey& key, std::vector<double> seconds) {
  fresh_[key] = seconds;
  known_[key] = std::move(seconds);
}

void KernelTimes::save() {
  if (!database_ || fresh_.empty()) return;
  if (!check(sqlite3_exec(database_, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr))) return;
  int code;
  {
    Statement s = prepare(database_, "INSERT OR REPLACE INTO kernel_times (machine, build, threads, request, kernels, seconds) VALUES (?1, ?2, ?3, ?4, ?5, ?6)", &code);
    for (auto it = fresh_.begin(); code == SQLITE_OK && it != fresh_.end(); ++it) {
      std::string text = fmt::format("{}", fmt::join(it->second, ","));
      bind_key(s.get(), it->first);
      bind_text(s.get(), 6, text);
      code = sqlite3_step(s.get());
      if (code == SQLITE_DONE) code = sqlite3_reset(s.get());
    }
  }
  if (check(code) && check(sqlite3_exec(database_, "COMMIT", nullptr, nullptr, nullptr))) fresh_.clear();
}

}  // namespace lathe
