// Weights alone in few bits, activations in float: for networks whose size or whose reading of weights matters. The file holds codes and
// the standard operators that make numbers of them; products of few rows read the codes themselves (kernels/cpu).
#include "optimize/quantized.h"

namespace lathe::techniques {

Technique weights() {
  Technique t;
  t.key = "weights";
  t.summary = "weights in 8 to 3 bits, activations in float; `lathe quantize` has more quantizers, down to 1 bit";
  t.source = "Frantar et al. 2023 (GPTQ), Han et al. 2016 (codebooks); survey: Rokh et al. 2023";
  t.applies_to = "networks with convolutions or products with constant f32 weights";
  t.reproduction = "quantization-survey";
  t.stage = Technique::Stage::kPrecision;
  t.need = Technique::Need::kData;
  t.conflicts = {"bf16", "int8", "mixed"};
  t.knobs = {Knob::choice("quantizer", "of the weights; the first and the last layer have 8 bits at least",
                          {"int4,g64,gptq", "codebook:4,gptq", "int8,gptq", "codebook:3,gptq", "int4,mse,gptq"})};
  t.obstacle = [](const Candidate& c, const TechniqueContext&) { return nothing_to_quantize(c); };
  t.apply = [](Candidate& c, const Settings& settings, const TechniqueContext& context) {
    Scheme scheme = parse_scheme("w:" + settings.choice("quantizer", "int4,g64,gptq") + " bias");
    scheme.seed = context.seed;
    quantize_candidate(c, scheme, false, context);
  };
  return t;
}

}  // namespace lathe::techniques
