"""A cohort on Dask workers that SLURM starts: they come as nodes are free, and the list is handed out among them.

    pip install dask-jobqueue
    python slurm_dask.py JOBS MANIFEST -o OUT -b BUNDLE

Run it where it may stay for as long as the cohort, as in a job of its own. OUT is on a file system that all nodes see,
or a URL. The words after JOBS go to `convformer-monai cohort`.
"""

import subprocess
import sys

from dask_jobqueue import SLURMCluster

cluster = SLURMCluster(
    cores=1,  # cases at a time in a job; 2 for a GPU, where one is read while the network runs the other
    processes=1,
    memory="6GB",
    walltime="12:00:00",
    job_cpu=4,
    job_script_prologue=["export OMP_NUM_THREADS=4", ". $HOME/env/bin/activate"],
    # For a GPU: job_extra_directives=["--gres=gpu:1"]
    worker_extra_args=["--lifetime", "11h30m", "--lifetime-stagger", "10m"],  # ends before SLURM ends it
)
cluster.scale(jobs=int(sys.argv[1]))
command = ["convformer-monai", "cohort", *sys.argv[2:], "--engine", "dask", "--scheduler", cluster.scheduler_address]
sys.exit(subprocess.run(command, check=False).returncode)
