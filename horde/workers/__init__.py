"""Workers: the machines that take jobs, what they offer and what their software can do."""
