"""The operator as a process: kopf, HTTP, the clock and the environment. Decides nothing about a job."""
