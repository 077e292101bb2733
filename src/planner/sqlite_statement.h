// What the files of kernel times and of trials share of SQLite's interface.
#pragma once

#include <sqlite3.h>

#include <memory>
#include <string>

namespace lathe {

using Statement = std::unique_ptr<sqlite3_stmt, decltype(&sqlite3_finalize)>;

inline Statement prepare(sqlite3* database, const char* text, int* code) {
  sqlite3_stmt* raw = nullptr;
  *code = sqlite3_prepare_v2(database, text, -1, &raw, nullptr);
  return {raw, sqlite3_finalize};
}

inline void bind_text(sqlite3_stmt* s, int at, const std::string& text) {
  sqlite3_bind_text(s, at, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
}

}  // namespace lathe
