package main

import (
	"github.com/spf13/cobra"

	"github.com/starferry/starferry/policy"
)

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of policy files, for editors", Args: noArgs,
		Long: `Print the JSON Schema of policy files, by which editors complete and check them:

  starferry schema > policy.schema.json

and in the first line of a policy file

  # yaml-language-server: $schema=policy.schema.json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(policy.Schema())
			return err
		},
	}
}
