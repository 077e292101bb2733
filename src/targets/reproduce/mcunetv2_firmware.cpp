// MCUNetV2 in firmware: Lin et al. 2021, arXiv 2110.15352. The other checks of the key are in optimize/reproduce/mcunetv2.cpp.
#include "models/models.h"
#include "optimize/reproduce.h"
#include "quantize/quantize.h"
#include "runtime/load.h"
#include "targets/mcu/budget.h"
#include "targets/mcu/tiles.h"
#include "transform/passes.h"

namespace lathe::experiments {
namespace {

CheckResult fits(const ReproduceContext& context) {
  Graph g = build_model("mobilenet_v2", {.input = {3, 144, 144}, .width = 0.35, .seed = context.seed});
  specialize(g, default_input_shapes(g));
  clean_up(g);
  const Graph codes = quantize_network(g, parse_scheme("w:int8 a:uint8,minmax"), {2, [&](size_t i) { return random_inputs(g, context.seed + i); }}).graph;
  const mcu::McuProgram whole = mcu::make_program(Graph(codes));
  const mcu::TiledProgram tiled = mcu::make_tiled_program(Graph(codes), {.outside_input = true}, {});
  const int64_t a = whole.arena_bytes + mcu::kStackBytes, b = tiled.program.arena_bytes + mcu::kStackBytes;
  return CheckResult::of(a <= 308000 && b <= 85000 && tiled.choice.overhead() <= 0.15,
                         fmt::format("{} bytes of SRAM, {} in {}x{} tiles with {:.1f} % more multiply–accumulates", a, b, tiled.choice.tiles.rows, tiled.choice.tiles.columns, 100 * tiled.choice.overhead()));
}

}  // namespace

Reproduction mcunetv2_firmware() {
  return {"mcunetv2", "", "", {{"firmware", "TinyEngine's model list: MobileNetV2, width 0.35: 308 kB, 85 kB with patches", "at most so much, arena and stack, at most 15 % more multiply–accumulates", true, fits}}};
}

}  // namespace lathe::experiments
