"""Parts of `bench.gpu_acceptance`: each is a module with `run(lab, record)`; they run in processes of `bench.acceptance.worker`."""
