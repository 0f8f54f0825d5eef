"""Device code and its launchers: one file an operation, no policy, no validation.

`count` counts ranks, `inertia` the signs of pivots for it, `sketch` carries bases from step to step, `step` is SGD's
step, `lowrank` the range finder. They are written in Triton; `cuda` has what is in CUDA C++. Under them stand `limits`
(what the kernels take; without Triton), `device`, `variant` (what a launch is compiled for), `launch`, `pointers` (how
the host fills tables on the device) and `compile` (kernels made ready before they are launched).
"""
