#include "optimize/store.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "planner/sqlite_statement.h"

namespace lathe {
namespace {

// Others that use the file hold it for one row at a time.
constexpr int kBusyMilliseconds = 20000;
// Of the table's form. Another number in the file (PRAGMA user_version) means that a different lathe wrote it.
constexpr int kFormat = 1;
// In SQLite's header: "lath", so that another program's file is not taken for ours.
constexpr int kApplication = 0x6c617468;

void bind_key(sqlite3_stmt* s, const TrialKey& key) {
  int at = 1;
  for (const std::string* t : {&key.kind, &key.model, &key.data, &key.settings, &key.conditions, &key.machine, &key.build}) bind_text(s, at++, *t);
  sqlite3_bind_int64(s, at, static_cast<sqlite3_int64>(key.seed));
}

}  // namespace

std::string default_trial_store() {
  std::string folder = user_cache_folder();
  return folder.empty() ? "" : folder + "/trials.db";
}

void TrialStore::check(int code, const char* what) {
  if (code == SQLITE_OK || code == SQLITE_ROW || code == SQLITE_DONE) return;
  std::string why = database_ ? sqlite3_errmsg(database_) : sqlite3_errstr(code);
  if (code == SQLITE_NOTADB || code == SQLITE_CORRUPT) why += ": it is no file of trials; name another with --store";
  else if (code == SQLITE_FULL || (code & 0xff) == SQLITE_IOERR) why += ": is the disk full? The trials written before are kept";
  fail(ErrorKind::kInput, "the trials in {} cannot be {}: {}", path_, what, why);
}

TrialStore::TrialStore(std::string path) : path_(std::move(path)) {
  if (path_.empty()) return;
  std::error_code ignored;  // a folder that cannot be made is told by the open below
  if (auto parent = std::filesystem::path(path_).parent_path(); !parent.empty()) std::filesystem::create_directories(parent, ignored);
  try {
    check(sqlite3_open_v2(path_.c_str(), &database_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr), "opened");
    sqlite3_busy_timeout(database_, kBusyMilliseconds);
    int code;
    int format = 0, tables = 0;
    {
      Statement s = prepare(database_, "SELECT (SELECT user_version FROM pragma_user_version()), (SELECT count(*) FROM sqlite_master)", &code);
      check(code, "read");
      check(code = sqlite3_step(s.get()), "read");
      format = sqlite3_column_int(s.get(), 0);
      tables = sqlite3_column_int(s.get(), 1);
    }
    if (format == kFormat) {
      // Told now and not after the first measurement.
      check(sqlite3_exec(database_, "BEGIN IMMEDIATE; COMMIT", nullptr, nullptr, nullptr), "written");
      return;
    }
    if (format != 0 || tables != 0)
      fail(ErrorKind::kInput, "the trials in {} cannot be used: {}; name another file with --store", path_, format ? "another version of lathe wrote them" : "it holds another program's tables");
    // IF NOT EXISTS: another process may make the table between our look and this statement.
    std::string make = fmt::format(
        "BEGIN IMMEDIATE;"
        "CREATE TABLE IF NOT EXISTS trials (kind TEXT, model TEXT, data TEXT, settings TEXT, conditions TEXT, machine TEXT, build TEXT,"
        " seed INTEGER, result TEXT NOT NULL, measured TEXT DEFAULT CURRENT_TIMESTAMP,"
        " PRIMARY KEY (kind, model, data, settings, conditions, machine, build, seed));"
        "PRAGMA application_id = {}; PRAGMA user_version = {}; COMMIT;", kApplication, kFormat);
    check(sqlite3_exec(database_, make.c_str(), nullptr, nullptr, nullptr), "written");
  } catch (...) {
    sqlite3_close(database_);
    throw;
  }
}

TrialStore::~TrialStore() { sqlite3_close(database_); }

std::optional<nlohmann::json> TrialStore::find(const TrialKey& key) {
  std::string text;
  if (path_.empty()) {
    if (auto it = memory_.find(key); it != memory_.end()) text = it->second;
  } else {
    int code;
    Statement s = prepare(database_, "SELECT result FROM trials WHERE kind = ?1 AND model = ?2 AND data = ?3 AND settings = ?4 AND conditions = ?5 AND machine = ?6 AND build = ?7 AND seed = ?8", &code);
    check(code, "read");
    bind_key(s.get(), key);
    check(code = sqlite3_step(s.get()), "read");
    if (code == SQLITE_ROW) text = reinterpret_cast<const char*>(sqlite3_column_text(s.get(), 0));
  }
  if (text.empty()) return std::nullopt;
  nlohmann::json result = nlohmann::json::parse(text, nullptr, false);
  if (result.is_discarded()) return std::nullopt;  // measured anew, and replaced
  found_ += touched_.insert(key).second;
  return result;
}

void TrialStore::add(const TrialKey& key, const nlohmann::json& result) {
  std::string text = result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  added_ += touched_.insert(key).second;
  if (path_.empty()) {
    memory_[key] = std::move(text);
    return;
  }
  int code;
  Statement s = prepare(database_, "INSERT OR REPLACE INTO trials (kind, model, data, settings, conditions, machine, build, seed, result) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)", &code);
  check(code, "written");
  bind_key(s.get(), key);
  bind_text(s.get(), 9, text);
  check(sqlite3_step(s.get()), "written");
}

int64_t TrialStore::count() {
  if (path_.empty()) return static_cast<int64_t>(memory_.size());
  int code;
  Statement s = prepare(database_, "SELECT count(*) FROM trials", &code);
  check(code, "read");
  check(code = sqlite3_step(s.get()), "read");
  return sqlite3_column_int64(s.get(), 0);
}

}  // namespace lathe
