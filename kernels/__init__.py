"""Device code and its launchers: one file an operation, no policy, no validation.

`count` counts ranks, `sketch` carries bases from step to step, `step` is SGD's step, `lowrank` the range finder. Under
them stand `limits` (what the kernels take; without Triton), `device`, `variant` (what a launch is compiled for),
`pointers` (how the host fills tables on the device) and `compile` (kernels made ready before they are launched).
"""
