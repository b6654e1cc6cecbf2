"""A trained model grows: tasks are added, tasks leave, models become one."""
