#include "train_options.h"

namespace lathe::cli {

namespace {

void declare(CLI::App& app, bool finetune, const TrainAction& action) {
  auto* command = finetune ? app.add_subcommand("finetune", "Train a trained network further, with a new last layer")
                           : app.add_subcommand("train", "Train a network of a family, or an ONNX file, on labelled data");
  command->footer(finetune ? "Examples:\n  lathe finetune net.onnx --data flowers/ -o out --epochs 5 --convbn tune\n  lathe finetune net.onnx --data flowers/ -o out --freeze 'stages.0.*' --freeze 'stem.*'"
                           : "Examples:\n  lathe train resnet18 --data fashion-mnist --width 0.25 --set stem=small --epochs 8 -o out\n"
                             "  lathe train caformer_s18 --data pictures/ --epochs 50 --mixup 0.8 --cutmix 1 --augment resized-crop,flip,randaugment -o out\n"
                             "  lathe train caformer_s18 --data pictures/ --epochs 50 --mixup 0.8 --cutmix 1 --augment resized-crop,flip,randaugment -o out --resume\n"
                             "  lathe train generated.onnx --data generated:moving-shapes,count=2000 -o out");
  auto c = std::make_shared<TrainCommand>();
  c->finetune = finetune;
  TrainSettings* const s = &c->settings;
  command->add_option(finetune ? "MODEL" : "NETWORK", c->network, finetune ? "A trained ONNX file" : "A network of \"lathe models\", or an ONNX file")->required();
  command->add_option("--data", c->data, "A folder of class folders, fashion-mnist, IDX or CIFAR files, .npz, generated:..., with options behind commas (docs/DATA.md)")->required()->type_name("DATA");
  command->add_option("-o,--output", c->output, "Folder for checkpoint, log and trained network")->required()->type_name("DIR");
  if (!finetune) {
    auto* family = command->add_option_group("network");
    family->add_option("--input", c->input, "Size of a sample, as 3x224x224 (the data's, where its samples have one size)")->type_name("SIZES");
    family->add_option("--width", s->width, "Multiplies the channels")->capture_default_str();
    family->add_option("--depths", c->depths, "Blocks of each stage, with commas")->type_name("N,N,...");
    family->add_option("--widths", c->widths, "Channels of each stage, with commas")->type_name("N,N,...");
    family->add_option("--set", c->set, "An option of the family, KEY=VALUE (repeat for several)")->type_name("KEY=VALUE")->allow_extra_args(false);
  }
  command->add_option("--epochs", s->epochs, "How often the data is seen")->check(CLI::Range(0.0, 1e6))->capture_default_str();
  command->add_option("--batch", s->batch, "Samples of a batch")->check(CLI::Range(int64_t{1}, int64_t{1} << 20))->capture_default_str();
  command->add_option("--accumulate", s->accumulate, "Batches of a step")->check(CLI::Range(int64_t{1}, int64_t{1} << 20))->capture_default_str();
  command->add_option("--lr", s->rate, "Highest learning rate (adamw 0.001, sgd 0.05, lamb 0.005)")->check(CLI::Range(0.0, 1e3));
  command->add_option("--schedule", s->schedule, "Of the learning rate")->check(CLI::IsMember({"cosine", "step", "constant"}))->capture_default_str();
  command->add_option("--warmup", s->warm_up, "Epochs until the highest rate")->check(CLI::Range(0.0, 1e6))->capture_default_str();
  command->add_option("--last-lr", s->last_rate, "What cosine ends at")->check(CLI::Range(0.0, 1e3))->capture_default_str();
  command->add_option("--optimizer", s->optimizer, "adamw, sgd or lamb")->check(CLI::IsMember({"adamw", "sgd", "lamb"}))->capture_default_str();
  command->add_option("--momentum", s->momentum, "Of sgd")->check(CLI::Range(0.0, 0.9999))->capture_default_str();
  command->add_flag("--no-nesterov", c->no_nesterov, "Plain momentum in sgd");
  command->add_option("--weight-decay", s->weight_decay, "Of weights, not of biases, norms and scales (adamw and lamb 0.05, sgd 0.0005)")->check(CLI::Range(0.0, 10.0));
  command->add_option("--clip", s->clip, "Most of the norm of all gradients; 0: none")->check(CLI::Range(0.0, 1e9))->capture_default_str();
  command->add_option("--smoothing", s->smoothing, "Of labels")->check(CLI::Range(0.0, 0.99))->capture_default_str();
  command->add_option("--augment", s->augment, "flip, crop=PIXELS, resized-crop, jitter, randaugment=N:M, erase=P, with commas (docs/DATA.md)")->capture_default_str();
  command->add_option("--mixup", s->mixup, "Alpha of mixup; 0: none")->check(CLI::Range(0.0, 100.0))->capture_default_str();
  command->add_option("--cutmix", s->cutmix, "Alpha of cutmix; 0: none")->check(CLI::Range(0.0, 100.0))->capture_default_str();
  command->add_option("--ema", s->ema, "Decay of an average of weights, which is evaluated and written; 0: none")->check(CLI::Range(0.0, 0.999999))->capture_default_str();
  command->add_option("--distill", s->teacher, "A teacher, whose answers are learnt too")->type_name("FILE");
  command->add_option("--distill-part", s->distill, "The teacher's part of the loss")->check(CLI::Range(0.0, 1.0))->capture_default_str();
  command->add_option("--temperature", s->temperature, "Of teacher and student")->check(CLI::Range(0.01, 1000.0))->capture_default_str();
  command->add_option("--convbn", s->conv_bn, finetune ? "Convolutions with batch norms: train, eval, deploy or tune (tune)" : "Convolutions with batch norms: train, eval, deploy or tune (train)")
      ->check(CLI::IsMember({"train", "eval", "deploy", "tune"}));
  command->add_option("--quantize", s->quantize, "Round weights and activations in training, as \"w:int4 a:uint4\" (docs/QUANTIZE.md); what is written computes on their codes")->type_name("SCHEME");
  command->add_option("--freeze", s->freeze, "Parameters named like this are not trained, * stands for anything (repeat for several)")->type_name("PATTERN")->allow_extra_args(false);
  command->add_option("--mean", s->mean, "Taken off pixels of 0 to 1, for each channel (the data's)")->expected(1, 16);
  command->add_option("--std", s->std, "What they are divided by then (the data's)")->expected(1, 16);
  command->add_flag("--bf16", s->bf16, "Products in bf16");
  command->add_flag("--recompute", s->recompute, "Make activations again in the backward pass: less memory, more time");
  command->add_option("--device", s->device, "Where libtorch trains: cpu, cuda, cuda:N")->capture_default_str();
  command->add_option("--threads", s->threads, "Of the training")->check(CLI::Range(1, 1024))->capture_default_str();
  command->add_option("--loader-threads", s->loader_threads, "That decode and augment beside it")->check(CLI::Range(0, 1024))->capture_default_str();
  command->add_option("--seed", s->seed, "Of weights, order, augmentation and dropout")->capture_default_str();
  command->add_flag("--resume", s->resume, "Go on from the folder's checkpoint, to the same bits");
  command->add_option("--checkpoint", s->checkpoint_seconds, "Seconds between checkpoints, besides one after each epoch")->check(CLI::Range(0.0, 1e9))->capture_default_str();
  command->add_option("--steps", s->most_steps, "Stop after so many steps in all, as if interrupted; 0: none")->check(CLI::Range(int64_t{0}, int64_t{1} << 40))->capture_default_str();
  command->add_flag("--force", s->force, "Begin anew in a folder that holds a training");
  command->add_flag("--json", c->json, "One JSON object on stdout at the end");
  command->callback([c, action] { action(*c); });
}

}  // namespace

void declare_train(CLI::App& app, const TrainAction& action) {
  declare(app, false, action);
  declare(app, true, action);
}

}  // namespace lathe::cli
