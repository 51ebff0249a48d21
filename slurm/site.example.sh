# What is particular to a cluster. Copy this file to slurm/site.sh (git ignores it) and keep the lines that you need; both
# batch scripts read it before they start anything. Another place: export ALTIPLANO_SITE=/path/to/file before sbatch.

# --- modules ---
# module purge
# module load python/3.11 cuda/12.8 nccl

# --- Python: an environment, or a container ---
# PYTHON=(/shared/altiplano/.venv/bin/python)
# PYTHON=(apptainer exec --nv --bind /shared /shared/altiplano.sif python)
# With enroot and pyxis, srun starts the container itself. The batch script asks for one setting outside of it, so that
# a Python with pydantic and PyYAML has to be there too:
# SRUN_OPTIONS+=(--container-image=/shared/altiplano.sqsh --container-mounts=/shared --container-workdir="$PWD")

# --- network ---
# Altiplano itself chooses the interface that leads to the first node. Where Ethernet is for Slurm and InfiniBand for data:
# export GLOO_SOCKET_IFNAME=ib0 NCCL_SOCKET_IFNAME==ib0    # the second "=": exactly this name, not every one that begins so
# export NCCL_IB_HCA=mlx5                                   # the cards that NCCL may use
# export NCCL_IB_TIMEOUT=22                                 # patience with a congested fabric, 4.096 µs × 2^22 = 17 s

# --- processor cores ---
# With more than one task on a node, srun may give every task the same cores; this binds each to its own.
# SRUN_OPTIONS+=(--cpu-bind=cores)
