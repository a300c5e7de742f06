/* The trainer's sub-commands: words behind the command's name in, exit code out (0; failures end in runtime_fail). */
#ifndef MOEC_RUNTIME_COMMANDS_H
#define MOEC_RUNTIME_COMMANDS_H

int trainer_train(int argc, char **argv);
int trainer_eval(int argc, char **argv);
int trainer_sample(int argc, char **argv);
int trainer_info(int argc, char **argv);
int trainer_exec(int argc, char **argv);

#endif
