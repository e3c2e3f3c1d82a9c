"""Names and sizes that the writer and the reader of a packed plan agree on. Layer 1, standard library only."""

SCHEMA = 2  # 2: probes may hold operations outside the block families
OLDEST_SCHEMA = 1
PLAN_FILE = "plan.json"
WEIGHTS_FILE = "weights.bin"  # the values that the tensors of a plan's float32 networks share
WEIGHT_STEP_BYTES = 64  # from one tensor's begin to the next one's, in each network
NETWORKS_FILE = "networks.json"  # of a packed plan: the calibration networks as numbers, for the way back
