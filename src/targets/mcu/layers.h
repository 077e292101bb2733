// The layers of a program as C: what stands between the frame of a source file (emit.h) and the functions of c/.
#pragma once

#include <fmt/format.h>

#include <set>
#include <string>
#include <vector>

#include "targets/mcu/program.h"

namespace lathe::mcu {

struct LayerText {
  std::string weights_c = {}, weights_h = {};  // constants, and their declarations
  std::string forms = {};                      // one function for each form of layer
  std::string layers = {};                     // structures and functions, run_layer_00 and so on
  std::string table = {};                      // entries of the table of layers
  std::set<std::string> headers = {};          // of c/ that they need
  std::vector<std::string> functions = {};     // by layer
  std::string rows = {};                       // of the read-me's table
  int64_t weight_bytes = 0;
};

// `name` begins the names of constants. Throws kUnsupported where no function of c/ computes a layer.
LayerText write_layers(const McuProgram& program, const std::string& name);

// Where a tensor lies, `extra` bytes from its begin.
inline std::string address(const McuTensor& t, int64_t extra = 0) { return fmt::format("arena + {}", t.offset + extra); }

}  // namespace lathe::mcu
