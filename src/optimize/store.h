// Measured trials, kept in one SQLite file, so that nothing is measured twice: a search that was stopped or killed goes on where
// it was, and one that is asked again answers from what is there. Each row is written by a transaction of its own, so that a
// process may die at any moment. Several processes may use one file.
//
//   TrialStore store("trials.db");
//   if (auto result = store.find(key)) …              // what was measured
//   else store.add(key, measure());
//
// Unlike kernel times, trials are the user's: a file that cannot be read or written is an error, and is left as it is.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <tuple>

struct sqlite3;

namespace lathe {

// All that a measurement depends on.
struct TrialKey {
  std::string kind;        // "trial", "proxy", "confirm", …
  std::string model;       // digest of the file
  std::string data;        // Dataset::digest()
  std::string settings;    // canonical() of the techniques; of a pair both, one a line
  std::string conditions;  // JSON: threads, seconds, preparation, metric, …
  std::string machine;     // host_identity()
  std::string build;       // kernel_build()
  uint64_t seed = 1;
  auto operator<=>(const TrialKey&) const = default;
};

class TrialStore {
 public:
  // "": remembers, but keeps nothing on disk. Throws kInput when the file cannot be opened, is none of SQLite's, or is another's.
  explicit TrialStore(std::string path);
  ~TrialStore();
  TrialStore(const TrialStore&) = delete;
  TrialStore& operator=(const TrialStore&) = delete;

  std::optional<nlohmann::json> find(const TrialKey& key);
  // Throws kInput when it cannot be written; what was written before stays.
  void add(const TrialKey& key, const nlohmann::json& result);
  int64_t count();                       // rows in all
  int64_t found() const { return found_; }  // keys that find() had before add() was told of them
  int64_t added() const { return added_; }
  const std::string& path() const { return path_; }

 private:
  void check(int code, const char* what);

  std::string path_;
  sqlite3* database_ = nullptr;
  std::map<TrialKey, std::string> memory_;  // without a file
  std::set<TrialKey> touched_;
  int64_t found_ = 0, added_ = 0;
};

// trials.db in the user's cache folder, beside kernels.db; "" when there is no such folder.
std::string default_trial_store();

}  // namespace lathe
