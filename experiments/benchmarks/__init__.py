"""Benchmarks. They run as modules in the root of the repository.

    python -m experiments.benchmarks.training_step

| module | measures |
|---|---|
| `training_step` | time of a training step, part by part, also of the same step in PyTorch |
| `method_cost` | time and memory of EKD or KDim, and of the two stages of KD |
| `face_latency` | time from a face to its embedding, of a teacher and its student |
| `face_reading` | images per second that are read from the disk, and that are trained |
| `degradation_speed` | time to degrade a batch, also by Pillow and OpenCV |
| `retrieval` | time and memory of Recall@K in large sets, beside faiss |
| `loss_speed` | time and memory of every loss, also in PyTorch |
| `ahead_of_time` | what the compilers of TPUs and GPUs make of a step or a loss, without a device |
| `convolution_speed` | time of convolutions on a CPU, also by XLA alone and in PyTorch |

The other modules are shared parts. PyTorch is optional.
"""
