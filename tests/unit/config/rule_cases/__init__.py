"""One module of cases for each topic of trainer_core/config/rules."""
