// Command owca is the agent. See owca --help and docs/.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"
)

// The exit codes, documented in --help.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

const description = `owca finds the tasks of this host (containers, pods, services, cgroups), measures what each
uses and how it suffers, and hands the numbers to Prometheus and other storages. With an
allocator it also sets limits (CPUs, memory, disks, caches), and gives them back at the end.

Without a command it runs: "owca --config FILE" is "owca run --config FILE".`

const exitCodes = `Exit codes:
  0    done, or stopped by SIGTERM
  1    the configuration is wrong, or something could not be started
  2    wrong usage, or running as root without --root
  130  interrupted (Ctrl-C)`

// commandLine is all that can be said on it; kong reads the tags.
type commandLine struct {
	Run        runCommand        `cmd:"" default:"withargs" help:"Run the agent (the default)."`
	Validate   validateCommand   `cmd:"" help:"Check configuration files without touching the host."`
	Check      checkCommand      `cmd:"" help:"Look at this host and tell what can be measured and limited here, and what to do about the rest."`
	Events     eventsCommand     `cmd:"" help:"List the performance events of this host, and try whether they really count."`
	Resctrl    resctrlCommand    `cmd:"" help:"Show who uses which part of the caches and of memory bandwidth."`
	Plan       planCommand       `cmd:"" help:"Print what a configuration would change on this host now, and change nothing."`
	Leases     leasesCommand     `cmd:"" help:"List the limits that owca has changed and will give back."`
	Restore    restoreCommand    `cmd:"" help:"Give back what an agent that was killed has changed."`
	Components componentsCommand `cmd:"" help:"List the components of a configuration with their fields."`
	Schema     schemaCommand     `cmd:"" help:"Print a JSON Schema of the configuration, for editors."`
	Version    versionCommand    `cmd:"" help:"Print the version."`
}

// stdio is where a command reads and writes.
type stdio struct {
	out, err io.Writer
}

func main() { os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr)) }

// execute is main with its exit code returned, so that program tests can call it.
func execute(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == guardianWord {
		return guard(args[1:], stdio{stdout, stderr}) // before what takes memory
	}
	var cli commandLine
	exit := -1
	parser, err := kong.New(&cli,
		kong.Name("owca"),
		kong.Description(description+"\n\n"+exitCodes),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) {
			exit = code
			panic(exitNow{})
		}),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 120}),
		kong.ShortUsageOnError(),
		kong.Vars{"version": buildInfo().String()},
	)
	if err != nil {
		panic(err) // the struct tags above are wrong
	}
	command, err := parse(parser, args, &exit)
	switch {
	case exit >= 0:
		return exit
	case err != nil:
		fmt.Fprintf(stderr, "owca: %v\nTry 'owca --help'.\n", err)
		return exitUsage
	}

	command.BindTo(context.Background(), (*context.Context)(nil))
	err = command.Run(stdio{stdout, stderr})
	var coded *exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		if coded.err != nil {
			fmt.Fprintf(stderr, "owca: %v\n", coded.err)
		}
		return coded.code
	default:
		fmt.Fprintf(stderr, "owca: %v\n", err)
		return exitFailed
	}
}

// exitNow unwinds from kong's --help, which wants to end the program.
type exitNow struct{}

func parse(p *kong.Kong, args []string, exit *int) (command *kong.Context, err error) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(exitNow); !ok || *exit < 0 {
				panic(r)
			}
		}
	}()
	return p.Parse(args)
}

// exitError ends the program with a code; without an error it has been told.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }
