"""The gate of plans: a built plan is compared with FP32 before it answers anybody."""
