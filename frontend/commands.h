/* moec's commands. Each takes the words behind its name and returns the exit code (design section 1): 0 done, 1 the
 * input is wrong, 2 the command line is, 3 the environment failed, 70 a bug in moec. */
#ifndef MOEC_COMMANDS_H
#define MOEC_COMMANDS_H

int command_build(int argc, char **argv);
int command_train(int argc, char **argv);
int command_ir(int argc, char **argv);
int command_opt(int argc, char **argv);
int command_emit(int argc, char **argv);
int command_explain(int argc, char **argv);
int command_forecast(int argc, char **argv);
int command_check(int argc, char **argv);
int command_data(int argc, char **argv);
int command_compare(int argc, char **argv);
int command_report(int argc, char **argv);

#endif
